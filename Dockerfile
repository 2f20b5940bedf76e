FROM python:3.13-slim

# Log lines are not buffered. Byte code is compiled once, below, and not at run time.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /app

# Dependencies are installed before the code is copied, so a change of the code builds in seconds.
# The SDK is a source package: the packages that build it are pinned too, and are removed
# afterwards.
COPY requirements-build.txt requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements-build.txt \
    && pip install --no-cache-dir --require-hashes --no-build-isolation --use-pep517 -r requirements.txt \
    && pip uninstall --yes -r requirements-build.txt

# Only the files that .dockerignore allows.
COPY . ./

# The user below owns no files, so every user must be able to read them, even if they come from a
# private checkout. A run for one event is mostly start-up, so it must not compile anything.
RUN chmod -R a+rX . && python -m compileall -q .

# Any uid works. This one is not root and owns no files.
USER 10001

CMD ["python", "./flowlog.py"]
