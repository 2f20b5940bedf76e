FROM python:3.13-slim

# Log lines appear when they are written; byte code is made below, once, and never at run time.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /app

# Dependencies before code: a change of the code builds in seconds. The SDK comes as source; what
# builds it is pinned as well, and is not needed to run it.
COPY requirements-build.txt requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements-build.txt \
    && pip install --no-cache-dir --require-hashes --no-build-isolation --use-pep517 -r requirements.txt \
    && pip uninstall --yes -r requirements-build.txt

# All that .dockerignore lets through.
COPY . ./

# The user below owns nothing, so all must be able to read what may come from a private checkout.
# A run for one event is mostly start-up, so it must not compile anything.
RUN chmod -R a+rX . && python -m compileall -q .

# Any uid will do; this one is not root and owns nothing.
USER 10001

CMD ["python", "./flowlog.py"]
