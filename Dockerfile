FROM python:3.13-slim

# Log lines appear when they are written; no byte code, since the code can't be written to anyway.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /app

# Dependencies before code: a change of the code builds in seconds.
COPY requirements.txt ./
RUN pip install --no-cache-dir --no-compile -r requirements.txt

COPY flowlog.py lib.py logdna_synchronous.py state.py catchup.py ./

# Any uid will do; this one is not root and owns nothing.
USER 10001

CMD ["python", "./flowlog.py"]
