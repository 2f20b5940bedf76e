#!/usr/bin/env bash
# Settings are read into variables named after them (`printf -v`), which shellcheck can't see.
# shellcheck disable=SC2154
# First of all: a trace (`bash -x`, an exported SHELLOPTS) would print the keys, and of what else may
# be inherited so, each would give them to other programs or break something below.
set +x +a +C +k
# Deploys the job to IBM Cloud Code Engine, and shows, runs and removes what it deployed.
# Needs the `ibmcloud` CLI with its code-engine plug-in, and bash 3.2 or newer. See `--help`.
set -euo pipefail
umask 077
# The CLI's own trace holds request bodies, and with them keys; colours would spoil what is read.
export IBMCLOUD_TRACE=false IBMCLOUD_COLOR=false IBMCLOUD_VERSION_CHECK=false LC_ALL=C

# Settings come from the ini file alone, also where the environment has variables of these names.
# Those that hold a secret below must not be inherited as exported ones.
unset "${!env_@}" "${!deploy_@}" CDPATH api_key text secret form value rest

# Every name that flowlog.py reads and that is not set by Code Engine itself.
SECRETS=(APIKEY COS_HMAC_ACCESS_KEY_ID COS_HMAC_SECRET_ACCESS_KEY LOGDNA_INGESTION_KEY)
SETTINGS=(COS_BUCKET COS_ENDPOINT COS_CRN IAM_ENDPOINT LOG_DESTINATION LOGDNA_ENDPOINT
  LOGDNA_REGION CLOUD_LOGS_ENDPOINT CLOUD_LOGS_APPLICATION CLOUD_LOGS_SUBSYSTEM FLOWLOG_MODE
  KEY_FIRST_LOGGED FLOWLOG_PREFIX FLOWLOG_RETRY_SECONDS FLOWLOG_CONCURRENCY LOG)
DEPLOY=(PROJECT REGION RESOURCE_GROUP NAME IMAGE SOURCE REGISTRY_SECRET CPU MEMORY RETRY_LIMIT
  MAX_EXECUTION_TIME ARRAY_SIZE BACKFILL_CPU BACKFILL_MEMORY BACKFILL_MAX_EXECUTION_TIME COS_ROLE)

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")
POLL_SECONDS=${FLOWLOG_POLL_SECONDS:-5}
UNREADABLE_POLLS=60

action="" ini="test.ini" dry_run="" yes="" adopt="" rebuild="" with_project="" run_name=""
assume="absent" # what a dry run takes for granted, since it asks nobody
output="" complaint="" called=() tmp="" faults=() there_now=() doing="" api_key="" project_was=""
following="" others="" title="" look=()

usage() {
  cat <<'TEXT'
deploy/code-engine.sh COMMAND [--ini FILE] [--dry-run]

  up         create what is missing, change what differs, leave the rest alone
  backfill   push everything that is in the bucket: submits a manual run, follows its log,
             ends with its summary and its success or failure as exit code
  status     what exists, and the recent runs
  logs       the log of the latest run; of another one with --run NAME
  down       remove what `up` made; asks first

  --ini FILE     the file that the tester reads too, with a section [deploy]; default: test.ini
  --dry-run      print every ibmcloud command as it would be run; run none, ask nobody. That of
                 up is always the one from nothing, since it doesn't look at what is there
  --yes          down: don't ask
  --project      down: remove the project too, with all that is in it, if `up` made it
  --adopt        up: take over a job, secret, … of this name that `up` did not make: removes it
                 and makes it anew
  --rebuild      up: build the image again from [deploy] source, changed or not
  --help         this text

Log in first: ibmcloud login. The command targets the region and resource group of the ini file
and selects its project, and the CLI stays targeted so.
Exit codes: 0 done; 1 something failed, or the run did; 2 the command line or the ini file is wrong.
TEXT
}

# --- what is said --------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

refuse() {
  printf '%s\n' "$*" >&2
  exit 2
}

# Text without any of the secrets, whoever put them there.
clean() {
  local text=$1 name
  for name in "${SECRETS[@]}"; do
    mask "$(env_value "$name")"
  done
  mask "$api_key"
  printf '%s\n' "$text"
}

# Takes a secret out of `text`: as it is, as JSON has it, and as Go's JSON has it.
mask() {
  local secret=$1 form
  [[ -n $secret ]] || return 0
  while IFS= read -r form; do
    text=${text//"$form"/***}
  done < <(sed -e 'p; s/[\\"]/\\&/g' -e 'p; s/</\\u003c/g; s/>/\\u003e/g; s/&/\\u0026/g' <<<"$secret")
}

# Words as a shell would take them. (Bash 3.2 would keep the backslashes of a replacement that is
# written out in double quotes.)
quoted() {
  local word line="" quote="'\\''"
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:@%+=,-]+$ ]]; then
      line+=" $word"
    else
      line+=" '${word//\'/$quote}'"
    fi
  done
  say "${line# }"
}

show() { quoted ibmcloud "$@"; }

# How this script is to be called to do something with the same ini file.
self() { quoted "$0" "$@" --ini "$ini"; }

# --- the ini file --------------------------------------------------------------------------------

# Prints a section as Python's configparser(interpolation=None) reads it, which is what the tester
# does: `value LINE NAME=TEXT`, or `fault TEXT`. Values over several lines fit no setting. What is in
# a line is not said: it may be the second half of a key.
read_section() {
  awk -v wanted="$1" '
    function strip(text) { gsub(/^[ \t\r\f\v]+|[ \t\r\f\v]+$/, "", text); return text }
    function fault(text) { print "fault " text; broken = 1; exit }
    NR == 1 { sub(/^\357\273\277/, "") }
    {
      text = strip($0)
      if (text == "" || text ~ /^[#;]/) next
      match($0, /[^ \t\r\f\v]/); indent = RSTART - 1
      if (option != "" && indent > level) { several[section, option] = 1; next }
      level = indent
      if (text ~ /^\[.+\]/) {
        sub(/^\[/, "", text); sub(/\][^\]]*$/, "", text)
        if (text != "DEFAULT" && text in seen) fault("line " NR ": section [" text "] is there twice")
        seen[text] = 1; section = text; option = ""; next
      }
      if (section == "") fault("line " NR " stands before any [section]")
      at = match(text, /[=:]/)
      option = at ? toupper(strip(substr(text, 1, at - 1))) : ""
      if (option == "") fault("line " NR " is neither a comment nor NAME = VALUE")
      if ((section, option) in value) fault("line " NR ": its name is there twice")
      value[section, option] = strip(substr(text, at + 1)); line[section, option] = NR
      names[++count] = section SUBSEP option
    }
    END {
      if (broken) exit
      if (!(wanted in seen)) { print "fault it has no section [" wanted "]; see test.ini.example"; exit }
      for (i = 1; i <= count; i++) {
        split(names[i], part, SUBSEP)
        inherited = part[1] == "DEFAULT" && wanted == "env" && !((wanted, part[2]) in value)
        if (part[1] != wanted && !inherited) continue
        if (names[i] in several) print "fault line " line[names[i]] ": its value goes on over more than one line"
        else print "value " line[names[i]] " " part[2] "=" value[names[i]]
      }
    }' <"$2"
}

env_value() {
  local name="env_$1"
  printf '%s' "${!name-}"
}

known() {
  local name=$1 each
  shift
  for each in "$@"; do [[ $each == "$name" ]] && return; done
  return 1
}

# Section $1 of the file into variables $2NAME; the names that may be there follow.
load_section() {
  local section=$1 prefix=$2 kind rest line name
  shift 2
  while IFS=' ' read -r kind rest; do
    if [[ $kind == fault ]]; then
      fault "$rest"
      continue
    fi
    line=${rest%% *} rest=${rest#* }
    name=${rest%%=*}
    if known "$name" "$@"; then
      printf -v "$prefix$name" '%s' "${rest#*=}"
    else
      fault "line $line: [$section] has no setting of this name"
    fi
  done < <(read_section "$section" "$ini")
}

fault() { faults+=("$1"); }

has() {
  local name="env_$1"
  [[ -n ${!name-} ]]
}

need() {
  has "$1" || fault "$1 is not set${2-}"
}

matches() { # NAME VALUE REGEX WHAT
  [[ -z $2 || $2 =~ $3 ]] || fault "$1 is not $4"
}

default() { # NAME VALUE
  local name="deploy_$1"
  [[ -n ${!name-} ]] || printf -v "$name" '%s' "$2"
}

load_settings() {
  [[ -r $ini && ! -d $ini ]] ||
    refuse "can't read $ini: copy test.ini.example to it and fill it in, or name another with --ini"
  load_section env env_ "${SECRETS[@]}" "${SETTINGS[@]}"
  load_section deploy deploy_ "${DEPLOY[@]}"
  [[ ${#faults[@]} -gt 0 ]] || check_settings
  [[ ${#faults[@]} -gt 0 ]] || return 0
  printf '%s\n' "$ini can't be used:" >&2
  printf '  %s\n' "${faults[@]}" >&2
  refuse "nothing was done: correct these, then run the same command again"
}

check_settings() {
  local name
  for name in "${SECRETS[@]}" "${SETTINGS[@]}"; do
    [[ $(env_value "$name") != put-your-* ]] ||
      fault "$name still holds the text of the example: fill it in, or take the line out"
  done
  need COS_BUCKET
  need COS_ENDPOINT
  need COS_CRN ": the subscription needs to know the COS instance, with HMAC credentials too"
  matches COS_CRN "$(env_value COS_CRN)" '^crn:v1:[^:]*:[^:]*:cloud-object-storage:[^:]*:[^:]*:[0-9a-fA-F-]{36}:' \
    "the CRN of a Cloud Object Storage instance"
  check_destination
  check_values
  mode=$(env_value FLOWLOG_MODE)
  mode=${mode:-simple}
  matches FLOWLOG_MODE "$mode" '^(simple|remember|catch-up)$' "simple, remember or catch-up"
  if [[ $mode != simple && ${env_KEY_FIRST_LOGGED:-first_logged} == "${env_FLOWLOG_PREFIX:-ibm_vpc_flowlogs_}"* ]]; then
    fault "KEY_FIRST_LOGGED begins with FLOWLOG_PREFIX: every write of the state would raise a run"
  fi
  if hmac && ! { has COS_HMAC_ACCESS_KEY_ID && has COS_HMAC_SECRET_ACCESS_KEY; }; then
    fault "COS_HMAC_ACCESS_KEY_ID and COS_HMAC_SECRET_ACCESS_KEY are a pair: one of them is not set"
  fi
  check_deploy
}

# What the job would refuse in every run; its own checks are finer.
check_values() {
  local name url='^(https?://)?[^ /?#@:]+(:[0-9]+)?(/[^ ?#@]*)?$'
  for name in COS_ENDPOINT IAM_ENDPOINT LOGDNA_ENDPOINT CLOUD_LOGS_ENDPOINT; do
    matches "$name" "$(env_value "$name")" "$url" "a host name or an http(s) URL"
  done
  matches COS_BUCKET "$(env_value COS_BUCKET)" '^[A-Za-z0-9._-]{1,255}$' "a bucket's name"
  matches LOGDNA_REGION "$(env_value LOGDNA_REGION)" '^[a-z0-9-]{1,63}$' "a region, such as us-south"
  matches FLOWLOG_RETRY_SECONDS "$(env_value FLOWLOG_RETRY_SECONDS)" '^0?(1200(\.0+)?|(1[01][0-9][0-9]|[0-9]{1,3})(\.[0-9]+)?)$' \
    "a number of seconds up to 1200"
  matches FLOWLOG_CONCURRENCY "$(env_value FLOWLOG_CONCURRENCY)" \
    '^0?([1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-6])$' "a number from 1 to 256"
  matches LOG "$(env_value LOG | tr '[:lower:]' '[:upper:]')" '^(DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL)$' \
    "DEBUG, INFO, WARNING, ERROR or CRITICAL"
}

check_destination() {
  destination=$(env_value LOG_DESTINATION)
  destination=${destination:-logdna}
  case $destination in
    logdna)
      need LOGDNA_INGESTION_KEY
      has LOGDNA_ENDPOINT || has LOGDNA_REGION ||
        fault "LOGDNA_ENDPOINT is not set, nor is LOGDNA_REGION: one of them must be"
      ;;
    cloud-logs)
      need CLOUD_LOGS_ENDPOINT
      if makes_key; then
        matches CLOUD_LOGS_ENDPOINT "$(env_value CLOUD_LOGS_ENDPOINT)" \
          '^(https://)?[0-9a-fA-F-]{36}\.(api|ingress)\.' \
          "https://INSTANCE_GUID.ingress.REGION.logs.cloud.ibm.com, which the role Sender is given on"
      fi
      ;;
    *) fault "LOG_DESTINATION is not logdna or cloud-logs" ;;
  esac
}

check_deploy() {
  local bucket_region
  bucket_region=$(env_value COS_ENDPOINT)
  if [[ $bucket_region =~ s3\.(direct\.|private\.)?([a-z0-9-]+)\.cloud-object-storage\.appdomain\.cloud ]]; then
    bucket_region=${BASH_REMATCH[2]}
    [[ $bucket_region == *-* ]] ||
      fault "COS_ENDPOINT is for buckets in $bucket_region, which is no region: a subscription needs a regional bucket"
    default REGION "$bucket_region"
    [[ $deploy_REGION == "$bucket_region" ]] ||
      fault "REGION is $deploy_REGION but COS_ENDPOINT is in $bucket_region: bucket, project and job must be in one region"
  fi
  [[ -n ${deploy_REGION-} ]] || fault "REGION is not set in [deploy]"
  defaults
  [[ -n $deploy_IMAGE$deploy_SOURCE ]] ||
    fault "IMAGE is not set in [deploy], nor is SOURCE: one of them must be"
  [[ -z $deploy_IMAGE || -z $deploy_SOURCE ]] ||
    fault "IMAGE and SOURCE are both set in [deploy]: only one of them can be"
  check_source
  matches NAME "$deploy_NAME" '^[a-z][a-z0-9-]{0,23}[a-z0-9]$' "2 to 25 lower-case letters, digits and hyphens"
  matches REGION "${deploy_REGION-}" '^[a-z0-9-]+$' "a region, such as us-south"
  matches PROJECT "$deploy_PROJECT" '^[A-Za-z0-9][A-Za-z0-9 ._-]*$' "a project's name"
  # Only a registry's host and a tag may have capitals; the example's OWNER is neither.
  matches IMAGE "$deploy_IMAGE" '^([A-Za-z0-9.:-]+/)?[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9_.-]+)?(@sha256:[0-9a-f]{64})?$' \
    "an image, such as ghcr.io/owner/flowlog:1.0.0"
  if makes_key && ! hmac && [[ $mode != simple && $deploy_COS_ROLE != Writer ]]; then
    fault "COS_ROLE is $deploy_COS_ROLE, but FLOWLOG_MODE $mode writes its state: it must be Writer, or left out"
  fi
  check_sizes
}

# What a build from a folder sends is what its .dockerignore lets through, file by file.
check_source() {
  local folder file
  [[ -n $deploy_SOURCE ]] || return 0
  if [[ $deploy_SOURCE == https://* ]]; then
    matches SOURCE "$deploy_SOURCE" '^https://[^@?#]+$' \
      "a repository's URL without a user, a key or a query, which a command line would show"
    return 0
  fi
  folder=$(source_folder)
  if [[ ! -f $folder/Dockerfile ]]; then
    fault "SOURCE is neither an https:// URL of a repository nor a folder with a Dockerfile"
  elif [[ ! -f $folder/.dockerignore ]] || ! grep -qx '\*' < <(ignore_lines); then
    fault "SOURCE has no .dockerignore with a line * and then !FILE for each file of the image"
  else
    while IFS= read -r file; do
      [[ -e $folder/$file ]] || fault "SOURCE has no file $file, which its .dockerignore names"
    done < <(source_files)
  fi
}

defaults() {
  default NAME flowlog
  default PROJECT "$deploy_NAME"
  default RESOURCE_GROUP ""
  default IMAGE ""
  default SOURCE ""
  default REGISTRY_SECRET ""
  # A run for one event reads one object; a backfill is worth a whole CPU.
  default CPU 0.125
  default MEMORY 0.25G
  default RETRY_LIMIT 3
  default MAX_EXECUTION_TIME 7200
  default ARRAY_SIZE 1
  default BACKFILL_CPU 1
  default BACKFILL_MEMORY 4G
  default BACKFILL_MAX_EXECUTION_TIME 86400
  # Listing needs more than Object Reader, and STATE needs Writer.
  if [[ $mode == simple ]]; then default COS_ROLE "Content Reader"; else default COS_ROLE Writer; fi
}

check_sizes() {
  local name value
  for name in RETRY_LIMIT MAX_EXECUTION_TIME ARRAY_SIZE BACKFILL_MAX_EXECUTION_TIME; do
    value="deploy_$name"
    matches "$name" "${!value}" '^(0|[1-9][0-9]{0,4})$' "a whole number of at most five digits"
  done
  for name in CPU BACKFILL_CPU; do
    value="deploy_$name"
    matches "$name" "${!value}" '^[0-9]+(\.[0-9]+)?$' "a number of CPUs, such as 0.125"
  done
  for name in MEMORY BACKFILL_MEMORY; do
    value="deploy_$name"
    matches "$name" "${!value}" '^[0-9]+(\.[0-9]+)?[MG]$' "a size, such as 0.25G"
  done
  [[ $deploy_ARRAY_SIZE != 0 ]] || fault "ARRAY_SIZE must be 1 or more"
  matches COS_ROLE "$deploy_COS_ROLE" '^(Object Reader|Content Reader|Reader|Writer)$' \
    "Object Reader, Content Reader, Reader or Writer"
}

hmac() { has COS_HMAC_ACCESS_KEY_ID || has COS_HMAC_SECRET_ACCESS_KEY; }

# Whether this script has to make an API key: the job needs one, and the ini file has none.
makes_key() { ! has APIKEY && { ! hmac || [[ $destination == cloud-logs ]]; }; }

source_folder() {
  case $deploy_SOURCE in
    /*) say "$deploy_SOURCE" ;;
    *) say "$ROOT/$deploy_SOURCE" ;;
  esac
}

# A setting as the job in the cloud gets it: the direct endpoint is the near one there.
cloud_value() {
  local value
  value=$(env_value "$1")
  if [[ $1 == COS_ENDPOINT && $value =~ ^(https://)?s3\.(private\.|direct\.)?([a-z0-9-]+\.cloud-object-storage\..*)$ ]]; then
    value="${BASH_REMATCH[1]}s3.direct.${BASH_REMATCH[3]}"
  fi
  printf '%s' "$value"
}

# --- the CLI -------------------------------------------------------------------------------------

# Runs the CLI: `output` is what it prints, `complaint` what it prints as errors. It must not wait
# for an answer that nobody gives.
call() {
  local status=0
  called=("$@")
  output=$(ibmcloud "$@" 2>"$tmp/complaint" </dev/null) || status=$?
  complaint=$(cat "$tmp/complaint")
  return $status
}

told() { printf '%s\n%s\n' "$output" "$complaint"; }

said() { grep -qiE "$1" <<<"$(told)"; }

# What the CLI says in such cases. None of them is a thing that doesn't exist.
LOGIN='not logged in|provided api key|BXNIM0415|(^|[^a-z])log in|(session|token|login)[^.]*expired|ibmcloud login'
PLUGIN='not a registered command|plug-?in[^.]*not (found|installed)|install the plug-?in'
UNREACHED='timed out|i/o timeout|gateway time-?out|bad gateway|no such host|host (was )?not found|page not found|dial tcp|connection (was )?(refused|reset)|(can|could) ?not (be reached|connect|reach|resolve)'
RIGHTS='not authorized|unauthorized|forbidden|not have (the )?(required )?(access|permission)'
MISSING='not found|does not exist|could not be found|(^|[^a-z])no [^.]* (was |were )?found'
ELSE='(^|: )(the |no )?resource group|: (iam )?(token|account|credentials?|executable file|file) (was )?not found'

# Whether what failed did so because the thing that it names doesn't exist.
missing() { ! said "$LOGIN|$PLUGIN|$UNREACHED|$RIGHTS" && names_the_thing; }

# Whether a line that says that something is missing speaks of what the CLI was asked for: its kind,
# its name, or a "resource". An account or a key that isn't found says nothing of it.
names_the_thing() {
  local lines word
  # The lines that say that something is missing.
  lines=$(told | { grep -iE "$MISSING" || true; } | { grep -viE "$ELSE" || true; } | squeezed)
  for word in "${called[@]}" resource; do
    case $word in
      -* | ce | iam | cos | get | delete | list | json) continue ;;
      service-api-key*) word="apikey" ;;
      service-id*) word="serviceid" ;;
      *polic*) word="polic" ;;
    esac
    if grep -qF -e "$(squeezed <<<"$word")" <<<"$lines"; then return 0; fi
  done
  return 1
}

# Without what differs from one way to write a name to another.
squeezed() { tr -d ' _-' | tr '[:upper:]' '[:lower:]'; }

# Reads what a command lists as JSON; an empty list where it says that there are no $1.
list() {
  local things=$1
  shift
  if call "$@"; then
    if [[ $output == *"["* ]]; then return 0; fi
    said '^ *(null|\{\}) *$|: *null *[,}]?$' || said "(^|[^a-z])no [^.]*$things" || return 1
  else
    said "(^|[^a-z])no [^.]*$things|${things}[^.]* not (be )?found" || return 1
    ! said "$LOGIN|$PLUGIN|$UNREACHED|$RIGHTS" || return 1
  fi
  output="[]"
}

# The last of what the CLI said, set off from what the script says.
excerpt() { clean "$1" | { grep . || true; } | tail -n 12 | sed 's/^/  | /'; }

# Ends the script: why a command failed, in one sentence where the reason is known.
explain() {
  local reason
  if said "$LOGIN"; then
    reason="The login has expired or there is none: run \`ibmcloud login\` (\`--sso\` where your company has it), then the same command again."
  elif said "$PLUGIN"; then
    reason="The CLI lacks a plug-in: run \`ibmcloud plugin install code-engine\`, then the same command again."
  elif said 'already exists'; then
    reason="It exists already, though it was not found a moment ago: someone else is at work here, or the service is slow to show it. Run the same command again."
  elif said "$RIGHTS"; then
    reason="Your account lacks a right for this: ask its administrator for it, then run the same command again."
  elif said 'quota|limit (is |was )?(reached|exceeded)|exceeds? the limit'; then
    reason="A limit of the account or project is reached: remove what is no longer needed, then run the same command again."
  elif said "$UNREACHED"; then
    reason="IBM Cloud was not reached, or did not answer in time: run the same command again."
  elif said "$MISSING"; then
    reason="Something that this names does not exist: look at ${run_name:+--run, and }the names in $ini."
  else
    reason="The CLI gave no reason that is known here."
  fi
  {
    say "failed: $(show "$@")"
    excerpt "$(told)"
    say "$reason"
  } >&2
  exit 1
}

# True where the thing exists, false where not; anything else ends the script.
exists() {
  if [[ -n $dry_run ]]; then
    show "$@"
    [[ $assume == present ]]
    return
  fi
  if call "$@"; then return 0; fi
  missing || explain "$@"
  return 1
}

# A thing of this deployment, by its name in the record: what a person is told (`title`) and how the
# CLI is asked for it (`look`).
thing() { # NAME
  case $1 in
    SUBSCRIPTION) title="subscription $deploy_NAME" look=(ce subscription cos get --name "$deploy_NAME") ;;
    JOB) title="job $deploy_NAME" look=(ce job get --name "$deploy_NAME") ;;
    SECRET) title="secret $deploy_NAME-secret" look=(ce secret get --name "$deploy_NAME-secret") ;;
    CONFIG) title="configmap $deploy_NAME-config" look=(ce configmap get --name "$deploy_NAME-config") ;;
    SERVICE_ID) title="service ID $(service_id)" look=(iam service-id "$(service_id)") ;;
  esac
}

# A command that changes something. $1 says what it does.
attempt() {
  local what=$1
  shift
  if [[ -n $dry_run ]]; then
    show "$@"
    return
  fi
  say "$what"
  call "$@"
}

# The same, where a failure ends the script.
change() { attempt "$@" || explain "${@:2}"; }

have() {
  there_now+=("$1")
}

target() {
  [[ -n $dry_run ]] || command -v ibmcloud >/dev/null ||
    die "there is no ibmcloud command: install it (https://cloud.ibm.com/docs/cli) and its plug-in: ibmcloud plugin install code-engine"
  local arguments=(target -r "$deploy_REGION")
  [[ -z $deploy_RESOURCE_GROUP ]] || arguments+=(-g "$deploy_RESOURCE_GROUP")
  change "targeting $deploy_REGION" "${arguments[@]}"
}

ID='[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'

# Every object of the first list in a JSON text, each on one line.
json_objects() {
  # Piece by piece: a large account has megabytes of policies, perhaps on one line.
  awk '
    BEGIN { RS = "," }
    {
      text = (NR > 1 ? "," : "") $0; count = length(text)
      for (i = 1; i <= count; i++) {
        c = substr(text, i, 1)
        if (c == "\n") c = " "
        if (escaped) escaped = 0
        else if (quoted) { if (c == "\\") escaped = 1; else if (c == "\"") quoted = 0 }
        else if (c == "\"") quoted = 1
        else if (c == "[" && !list) { list = 1; depth = 0; item = ""; continue }
        else if (c == "{" || c == "[") depth++
        else if (c == "}" || c == "]") { if (list && --depth < 0) exit }
        if (list) item = item c
        if (list && c == "}" && depth == 0 && !quoted) { sub(/^[ ,\t]+/, "", item); print item; item = "" }
      }
    }'
}

# The text of a field in JSON; the first one of that name. (`sed -n 1p` reads on to the end: after a
# `head` that doesn't, the command before it may fail, and with it the pipe.)
json_text() { sed -nE "s/.*\"$1\": *\"([^\"]*)\".*/\1/p" <<<"$2" | sed -n 1p; }

# Where an object has several, the first one is its own.
first_name() { grep -oE '"name": *"[^"]*"' <<<"$1" | sed -n 1p | cut -d'"' -f4 || true; }

json_number() {
  local number
  number=$(tr ',{}' '\n' <<<"$2" | sed -nE "s/^ *\"$1\": *([0-9]+) *$/\1/p" | sed -n 1p)
  say "${number:-0}"
}

# --- the record ----------------------------------------------------------------------------------
# A configmap beside the job's own says what `up` made and a fingerprint of the settings it used,
# since a secret can't be read back to be compared. Fingerprints are salted with the names.

remembered() { # NAME: the value, if any
  local pattern="\"$1\": *\"([^\"]*)\""
  [[ ! $record =~ $pattern ]] || say "${BASH_REMATCH[1]}"
}

remember() {
  local arguments=() pair
  for pair in "$@"; do
    [[ $(remembered "${pair%%=*}") != "${pair#*=}" ]] || continue
    arguments+=(--from-literal "$pair")
    record="\"${pair%%=*}\": \"${pair#*=}\"
$record" # the first of a name counts
  done
  [[ ${#arguments[@]} -gt 0 ]] || return 0
  change "  noting it in configmap $deploy_NAME-record" \
    ce configmap update --name "$deploy_NAME-record" "${arguments[@]}"
}

# Whether `up` has come to it, and was not refused it for good.
known_of() { [[ -n $(remembered "$1") && $(remembered "$1") != none ]]; }

# Comes before each change: it may take effect although its answer gets lost. Until it is known to
# be done there is no fingerprint, so the next `up` makes it again, whatever the ini file says then.
unsure() { # NAME...
  local name pairs=()
  for name in "$@"; do ! known_of "$name" || pairs+=("$name=unsure"); done
  remember ${pairs[@]+"${pairs[@]}"}
}

# Whether it is known to be as the fingerprint $2 says.
settled() { [[ $(remembered "$1") == "$2" ]]; }

# Names that an earlier `up` may have filled: those it noted, or any where it doesn't know.
filled() { # NAME ALL...
  local name=$1
  shift
  if [[ -z $(remembered "$name") || $(remembered "$name") == unsure ]]; then printf '%s\n' "$@"
  else remembered "${name}_NAMES" | tr '.' '\n'; fi
}

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum
  elif command -v shasum >/dev/null; then shasum -a 256
  else openssl dgst -sha256 -r; fi | cut -c1-64
}

fingerprint() {
  { printf '%s/%s/%s\n' "$deploy_REGION" "$deploy_PROJECT" "$deploy_NAME" && cat; } | sha256
}

# A configmap of this name in which `up` didn't note the project is someone else's.
read_record() {
  record="" record_there=""
  if exists ce configmap get --name "$deploy_NAME-record" --output json; then
    # Nothing is known of what can't be read: neither that `up` made it, nor that it did not.
    [[ -n $dry_run || $output == *"{"* ]] || explain ce configmap get --name "$deploy_NAME-record" --output json
    record=$output record_there=yes
    [[ $(remembered PROJECT) =~ ^(made|found)$ ]] || record=""
  fi
}

# --- what is wanted ------------------------------------------------------------------------------

# NAME=VALUE of those names that have one.
lines_of() { # NAME...
  local name
  for name in "$@"; do if has "$name"; then say "$name=$(cloud_value "$name")"; fi; done
}

# NAME= of the names that come in and have no value now: an empty one counts as unset.
blanks() {
  local name
  while IFS= read -r name; do
    [[ -z $name ]] || has "$name" || say "$name="
  done
}

names_of() { # NAME...: those that have a value, joined by dots
  local name names=""
  for name in "$@"; do if has "$name"; then names+=".$name"; fi; done
  printf '%s' "${names#.}"
}

# Which settings the job's pods see; the order is that of the lists above.
secret_print() {
  { lines_of "${SECRETS[@]}"
    ! makes_key || say "APIKEY is made"; } | fingerprint
}
config_print() { lines_of "${SETTINGS[@]}" | fingerprint; }

job_flags() {
  job=(--env-from-secret "$deploy_NAME-secret" --env-from-configmap "$deploy_NAME-config"
    --cpu "$deploy_CPU" --memory "$deploy_MEMORY" --retrylimit "$deploy_RETRY_LIMIT"
    --maxexecutiontime "$deploy_MAX_EXECUTION_TIME")
  [[ -z $deploy_REGISTRY_SECRET ]] || job+=(--registry-secret "$deploy_REGISTRY_SECRET")
}

image_flags() {
  case $deploy_SOURCE in
    "") image=(--image "$deploy_IMAGE") ;;
    https://*) image=(--build-source "$deploy_SOURCE" --build-strategy dockerfile) ;;
    *) image=(--build-source "$tmp/source" --build-strategy dockerfile) ;;
  esac
}

# The files that the image is made of; never the whole folder, which holds the ini file and its keys.
source_files() {
  say Dockerfile
  say .dockerignore
  ignore_lines | awk '/^!/ { print substr($0, 2) }'
}

ignore_lines() { tr -d '\r' <"$(source_folder)/.dockerignore"; }

copy_source() {
  local file
  [[ -n $deploy_SOURCE && $deploy_SOURCE != https://* ]] || return 0
  mkdir "$tmp/source"
  while IFS= read -r file; do
    mkdir -p "$(dirname "$tmp/source/$file")"
    cp -R "$(source_folder)/$file" "$tmp/source/$file"
  done < <(source_files)
  # The image keeps these modes, and its user is not the owner.
  chmod -R u+rwX,go+rX "$tmp/source"
}

image_print() {
  case $deploy_SOURCE in
    "") say "$deploy_IMAGE" ;;
    https://*) say "$deploy_SOURCE" ;;
    *) (cd "$tmp/source" && find . -type f | sort | while IFS= read -r file; do
      say "$file $(sha256 <"$file")"
    done) ;;
  esac
}

job_print() {
  job_flags
  { printf '%s\n' "${job[@]}" && image_print; } | fingerprint
}

subscription_flags() {
  local prefix
  prefix=$(env_value FLOWLOG_PREFIX)
  # Only writes, and only flow logs: STATE must raise no run.
  subscription=(--destination-type job --destination "$deploy_NAME" --bucket "$(env_value COS_BUCKET)"
    --event-type write --prefix "${prefix:-ibm_vpc_flowlogs_}")
}

subscription_print() {
  subscription_flags
  printf '%s\n' "${subscription[@]}" | fingerprint
}

# In small letters, as the lists of IBM Cloud have them.
cos_guid() { env_value COS_CRN | cut -d: -f8 | tr '[:upper:]' '[:lower:]'; }

logs_guid() { env_value CLOUD_LOGS_ENDPOINT | sed -E 's,^https://,,; s,\..*,,' | tr '[:upper:]' '[:lower:]'; }

policies_print() {
  { hmac || printf '%s\n' "$deploy_COS_ROLE" "$(cos_guid)" "$(env_value COS_BUCKET)"
    [[ $destination != cloud-logs ]] || logs_guid; } | fingerprint
}

# --- up ------------------------------------------------------------------------------------------

up() {
  doing="up"
  copy_source
  target
  ensure_project
  read_record
  # In a project that was made just now nothing can be someone else's.
  [[ $project_was == found ]] || ensure_record
  check_owner
  ensure_record
  ensure_authorization
  if makes_key; then
    ensure_service_id
    ensure_policies
  fi
  ensure_secret
  ensure_configmap
  ensure_job
  ensure_subscription
  drop_older_authorizations
  doing=""
  [[ -n $dry_run ]] ||
    say "up: job $deploy_NAME runs for every new flow log in $(env_value COS_BUCKET). What is there already: $(self backfill)"
}

ensure_project() {
  project_was="found"
  if ! exists ce project get --name "$deploy_PROJECT"; then
    project_was="made"
    change "creating project $deploy_PROJECT" ce project create --name "$deploy_PROJECT"
  fi
  have "project $deploy_PROJECT"
  change "selecting project $deploy_PROJECT" ce project select --name "$deploy_PROJECT"
}

# Whether `up` made it, or may have. Without a record it made nothing here.
ours() { # NAME
  if [[ $1 == RECORD ]]; then [[ -n $record ]]; else known_of "$1"; fi
}

# Creates what was not there. It is noted before: an answer may get lost. Where the creation was
# refused, or the thing had been there unseen, one that is found later is someone else's.
create() { # NAME VALUE WHAT ARGUMENTS...
  local name=$1 before
  before=$(remembered "$name")
  remember "$name=$2"
  if attempt "${@:3}"; then return; fi
  # In subshells: what the CLI said to the creation is what has to be told, whatever comes of these.
  if said 'already exists'; then
    [[ -n $before && $before != none ]] || (remember "$name=none") || true
  elif said "$RIGHTS"; then
    (thing "$name" && call "${look[@]}") || (remember "$name=none") || true
  fi
  explain "${@:4}"
}

# Things of the same names that are someone else's are refused, or made anew where that was asked for.
check_owner() {
  local each foreign=()
  doomed=() present=()
  look_in_project
  [[ -z $record_there ]] || doomed+=("RECORD|configmap $deploy_NAME-record")
  ! makes_key || look_for_service_id
  for each in ${doomed[@]+"${doomed[@]}"}; do
    if ours "${each%%|*}"; then present+=("${each%%|*}"); else foreign+=("$each"); fi
  done
  [[ ${#foreign[@]} -gt 0 ]] || return 0
  if [[ -z $adopt ]]; then
    doing=""
    printf '%s\n' "not made by this script, but of the same name:" >&2
    printf '  %s\n' "${foreign[@]#*|}" >&2
    [[ $project_was == found ]] ||
      say "project $deploy_PROJECT was made just now; to remove it: $(self down --project)" >&2
    die "nothing of it was touched: choose another NAME in [deploy], or take it over with \`up --adopt\`, which removes it and makes it anew"
  fi
  # A job may have variables of its own, a service ID keys that are used elsewhere.
  say "taking over what this script did not make: it is removed and made anew, and \`backfill\` finds what is written meanwhile"
  doomed=("${foreign[@]}")
  remove
}

is_there() { known "$1" ${present[@]+"${present[@]}"}; }

ensure_record() {
  [[ -z $record ]] || return 0
  change "creating configmap $deploy_NAME-record" \
    ce configmap create --name "$deploy_NAME-record" --from-literal "PROJECT=$project_was"
  record="\"PROJECT\": \"$project_was\""
  have "configmap $deploy_NAME-record"
}

# Reads the ID of the project, and all authorizations to hear of new objects, one on each line.
read_authorizations() {
  exists ce project get --name "$deploy_PROJECT" || true
  project_id=$(sed -nE "s/^ID: *($ID).*/\1/p" <<<"$output" | sed -n 1p)
  authorizations=""
  if [[ -n $dry_run ]]; then
    show iam authorization-policies --output json
    [[ $assume == absent ]] || authorizations="\"id\": \"AUTHORIZATION_ID\" $(cos_guid)"
    return 0
  fi
  [[ -n $project_id ]] ||
    die "can't find the ID of project $deploy_PROJECT in what \`ibmcloud ce project get\` prints"
  list "(polic|authorization)" iam authorization-policies --output json || explain iam authorization-policies --output json
  authorizations=$(json_objects <<<"$output" | grep -iE 'notifications ?manager') || true
}

# The ID of this project's authorization on the COS instance $1; nothing where there is none.
authorization_on() {
  grep -iF "$project_id" <<<"$authorizations" | grep -iF "$1" |
    sed -nE "s/.*\"id\": *\"($ID|AUTHORIZATION_ID)\".*/\1/p" | sed -n 1p || true
}

# The COS instances that `up` made an authorization on; a dry run takes it for made.
authorized() {
  if [[ -n $dry_run ]]; then cos_guid; else remembered AUTHORIZED | tr '.' '\n' | sed '/^none$/d'; fi
}

ensure_authorization() {
  local guid before command
  guid=$(cos_guid)
  command=(iam authorization-policy-create codeengine cloud-object-storage "Notifications Manager"
    --source-service-instance-name "$deploy_PROJECT" --target-service-instance-id "$guid")
  read_authorizations
  if [[ -z $(authorization_on "$guid") ]]; then
    # Noted before it is made: an answer may get lost, and `down` must know.
    before=$(remembered AUTHORIZED)
    [[ .$before. == *".$guid."* ]] || remember "AUTHORIZED=${before:+$before.}$guid"
    attempt "authorizing the project to hear of new objects" "${command[@]}" || {
      # Where one was refused, or is there unseen, a later one will not be of `up`.
      if ! said 'already exists'; then
        ! said "$RIGHTS" || (read_authorizations && [[ -n $(authorization_on "$guid") ]]) 2>/dev/null ||
          (remember "AUTHORIZED=${before:-none}") || true
        explain "${command[@]}"
      fi
      remember "AUTHORIZED=${before:-none}"
    }
  fi
  have "authorization \"Notifications Manager\""
}

# `ID GUID` of the authorizations that `up` made for what COS_CRN was before.
older_authorizations() {
  local guid id
  for guid in $(authorized); do
    id=$(authorization_on "$guid")
    [[ $guid == "$(cos_guid)" || -z $id ]] || say "$id $guid"
  done
}

drop_older_authorizations() {
  local guid id older kept=""
  older=$(older_authorizations)
  [[ -z $older ]] || read_others there
  # One that is no longer there, or was there before, goes from the list: the next one is not of `up`.
  [[ .$(remembered AUTHORIZED). != *".$(cos_guid)."* ]] || kept=$(cos_guid)
  while read -r id guid; do
    if [[ -z $id ]]; then continue; fi
    if [[ -n $others ]]; then
      say "left: $(still_needed "$id" "$guid")"
      kept+=${kept:+.}$guid
    else
      gone "the authorization on COS instance $guid" iam authorization-policy-delete "$id" -f
    fi
  done <<<"$older"
  for guid in $(authorized); do
    [[ $guid == "$(cos_guid)" || -n $(authorization_on "$guid") ]] ||
      say "no longer listed, so it counts as gone: the authorization on COS instance $guid"
  done
  [[ -z $(remembered AUTHORIZED) ]] || remember "AUTHORIZED=${kept:-none}"
}

# Reads the other subscriptions of the project: `NAME JSON`, one on each line. $1: whether the one
# of this deployment is there, so that a list without it is one that isn't understood.
read_others() {
  local each own=""
  others=""
  if [[ -n $dry_run ]]; then
    show ce subscription cos list --output json
  elif list subscription ce subscription cos list --output json; then
    while IFS= read -r each; do
      each="$(first_name "$each") $each"
      if [[ $each == "$deploy_NAME "* ]] && ours SUBSCRIPTION; then own=yes; else others+="$each"$'\n'; fi
    done < <(json_objects <<<"$output")
    [[ -z $1 || -n $own ]] || others="(unknown) "
  else
    others="(unknown) " # there may be some
  fi
}

other_names() { cut -d' ' -f1 <<<"$others" | sed '/^$/d' | paste -sd , -; }

still_needed() { # ID GUID
  say "authorization \"Notifications Manager\" on COS instance $2: subscription $(other_names) of this project may need it. Where none does: $(show iam authorization-policy-delete "$1")"
}

service_id() { say "$deploy_NAME-$deploy_PROJECT-$deploy_REGION"; }

ensure_service_id() {
  # A new service ID has neither key nor policies, whatever an older one of this name had.
  if ! is_there SERVICE_ID; then
    unsure API_KEY SECRET POLICIES
    create SERVICE_ID made "creating service ID $(service_id)" iam service-id-create "$(service_id)" \
      --description "Reads flow logs for Code Engine job $deploy_NAME; made by deploy/code-engine.sh"
  fi
  have "service ID $(service_id)"
}

# The service ID is ours alone, so on a change all its policies are made anew.
ensure_policies() {
  local wanted id
  wanted=$(policies_print)
  if ! is_there SERVICE_ID || ! settled POLICIES "$wanted"; then
    unsure POLICIES
    if is_there SERVICE_ID; then
      list polic iam service-policies "$(service_id)" --output json ||
        explain iam service-policies "$(service_id)" --output json
      for id in $(json_objects <<<"$output" | sed -nE "s/.*\"id\": *\"($ID)\".*/\1/p"); do
        change "removing an older policy" iam service-policy-delete "$(service_id)" "$id" -f
      done
    fi
    create_policies
    remember "POLICIES=$wanted"
  fi
  have "its policies"
}

create_policies() {
  hmac || change "giving it $deploy_COS_ROLE on bucket $(env_value COS_BUCKET)" iam service-policy-create \
    "$(service_id)" --roles "$deploy_COS_ROLE" --service-name cloud-object-storage \
    --service-instance "$(cos_guid)" --resource-type bucket --resource "$(env_value COS_BUCKET)"
  [[ $destination != cloud-logs ]] ||
    change "giving it Sender on the logs instance" iam service-policy-create \
    "$(service_id)" --roles Sender --service-name logs --service-instance "$(logs_guid)"
}

# A key's value is shown once, when it is made. One whose value never reached the secret is useless.
make_key() {
  local name="$deploy_NAME-key"
  if exists iam service-api-key "$name" "$(service_id)"; then
    change "removing an API key that is in no secret" \
      iam service-api-key-delete "$name" "$(service_id)" -f
  fi
  change "creating an API key of the service ID" \
    iam service-api-key-create "$name" "$(service_id)" \
    --description "Used by Code Engine job $deploy_NAME" --file "$tmp/key.json"
  [[ -z $dry_run ]] || return 0
  api_key=$(json_text apikey "$(tr -d '\n' <"$tmp/key.json")")
  rm -f "$tmp/key.json"
  [[ -n $api_key ]] ||
    die "the CLI made an API key but its file holds none; run the same command again"
}

ensure_secret() {
  local wanted verb="update" how=(change) origin="given" new_key="" before=""
  wanted=$(secret_print)
  is_there SECRET || verb="create" how=(create SECRET unsure)
  ! makes_key || origin="made"
  [[ $origin == given ]] || { [[ $verb == update ]] && settled API_KEY made; } || new_key=yes
  if [[ -n $new_key || $verb == create ]] || ! settled SECRET "$wanted"; then
    [[ $verb == create ]] || before=$(filled SECRET "${SECRETS[@]}")
    if [[ -z $new_key ]] && settled API_KEY "$origin"; then unsure SECRET; else unsure SECRET API_KEY; fi
    [[ -z $new_key ]] || make_key
    # A file that nobody else can read: a command line can be read by all users of this machine.
    secret_lines "$before" >"$tmp/secret.env"
    "${how[@]}" "secret $deploy_NAME-secret: $verb" ce secret "$verb" --name "$deploy_NAME-secret" \
      --from-env-file "$tmp/secret.env"
    rm -f "$tmp/secret.env"
    remember "SECRET=$wanted" "SECRET_NAMES=$(secret_names)" "API_KEY=$origin"
  fi
  have "secret $deploy_NAME-secret"
}

# What to write into the secret. A key that this script made stays there as long as it is wanted.
secret_lines() { # NAMES it may have now
  lines_of "${SECRETS[@]}"
  [[ -z $api_key ]] || printf 'APIKEY=%s\n' "$api_key"
  blanks <<<"$1" | if makes_key; then grep -vx APIKEY= || true; else cat; fi
}

secret_names() {
  names_of "${SECRETS[@]}"
  if makes_key; then printf '.APIKEY'; fi
}

ensure_configmap() {
  local wanted verb="update" how=(change) arguments line
  wanted=$(config_print)
  is_there CONFIG || verb="create" how=(create CONFIG unsure)
  if [[ $verb == create ]] || ! settled CONFIG "$wanted"; then
    arguments=(ce configmap "$verb" --name "$deploy_NAME-config")
    while IFS= read -r line; do arguments+=(--from-literal "$line"); done < <(config_lines "$verb")
    unsure CONFIG
    "${how[@]}" "configmap $deploy_NAME-config: $verb" "${arguments[@]}"
    remember "CONFIG=$wanted" "CONFIG_NAMES=$(names_of "${SETTINGS[@]}")"
  fi
  have "configmap $deploy_NAME-config"
}

config_lines() { # VERB
  lines_of "${SETTINGS[@]}"
  [[ $1 == create ]] || filled CONFIG "${SETTINGS[@]}" | blanks
}

ensure_job() {
  local wanted verb="update" how=(change) registry="none"
  wanted=$(job_print)
  job_flags
  image_flags
  [[ -z $deploy_REGISTRY_SECRET ]] || registry="used"
  is_there JOB || verb="create" how=(create JOB unsure)
  if [[ -n $rebuild || $verb == create ]] || ! settled JOB "$wanted"; then
    unsure JOB
    if [[ $verb == update && $registry == none && $(remembered REGISTRY) == used ]]; then
      # An update changes what it names, and there is no name for no registry secret.
      gone "job $deploy_NAME and its runs, to make it anew without the registry secret" \
        ce job delete --name "$deploy_NAME" --force
      verb="create"
    fi
    [[ $registry == none ]] || remember REGISTRY=used
    "${how[@]}" "job $deploy_NAME: $verb" ce job "$verb" --name "$deploy_NAME" "${image[@]}" "${job[@]}"
    remember "JOB=$wanted" "REGISTRY=$registry"
  fi
  have "job $deploy_NAME"
}

ensure_subscription() {
  local wanted
  wanted=$(subscription_print)
  subscription_flags
  if ! is_there SUBSCRIPTION || ! settled SUBSCRIPTION "$wanted"; then
    warn_of_others
    unsure SUBSCRIPTION
    if is_there SUBSCRIPTION; then
      gone "subscription $deploy_NAME, to make it anew" \
        ce subscription cos delete --name "$deploy_NAME" --force
      say "objects written until the new one is there raise no run: \`backfill\` finds them"
    fi
    create SUBSCRIPTION unsure "creating subscription $deploy_NAME" \
      ce subscription cos create --name "$deploy_NAME" "${subscription[@]}"
    remember "SUBSCRIPTION=$wanted"
  fi
  have "subscription $deploy_NAME"
}

# Says what else may push the flow logs of this bucket: a deployment under another name, for one.
warn_of_others() {
  local name count
  read_others ""
  [[ -z $dry_run ]] || return 0
  while read -r name _; do
    [[ -z $name ]] || warn "subscription $name of this project is on bucket $(env_value COS_BUCKET) too"
  done < <(grep -F "\"$(env_value COS_BUCKET)\"" <<<"$others")
  count=$(grep -iF codeengine <<<"$authorizations" | grep -iF "$(cos_guid)" | grep -cviF "$project_id") ||
    return 0
  warn "$count other Code Engine projects may hear of new objects in this COS instance"
}

warn() {
  say "WARNING: $1. Where it was an earlier name, project or region of this deployment, every line is now sent twice: remove it with \`$(quoted "$0" down)\` and an ini file that holds the earlier ones." >&2
}

# --- backfill, logs, status ----------------------------------------------------------------------

# Selects the project for the commands that need one to be there.
enter() {
  assume=present
  target
  exists ce project get --name "$deploy_PROJECT" ||
    go_up "project $deploy_PROJECT in $deploy_REGION"
  change "selecting project $deploy_PROJECT" ce project select --name "$deploy_PROJECT"
}

# A retried push-all sends again what it had sent; a catch-up goes on from its checkpoint.
backfill_retries() { if [[ $mode == catch-up ]]; then say 3; else say 0; fi; }

as_deployed() {
  { ! makes_key || settled POLICIES "$(policies_print)"; } && settled SECRET "$(secret_print)" &&
    settled CONFIG "$(config_print)" && settled JOB "$(job_print)"
}

need_there() { # NAME
  thing "$1"
  exists "${look[@]}" || go_up "$title"
}

go_up() { die "$1 does not exist: run \`$(self up)\` first"; }

backfill() {
  local run size=$deploy_ARRAY_SIZE array=()
  copy_source
  enter
  need_there JOB
  read_record
  [[ -n $dry_run || -n $record ]] || die "$(no_record): run \`$(self up --adopt)\` first, to take over what there is"
  [[ -n $dry_run ]] || as_deployed ||
    die "what is deployed is not known to be what $ini says: run \`$(self up)\` first"
  # A run without one of these would not begin, or not be let in.
  need_there SECRET
  need_there CONFIG
  ! makes_key || need_there SERVICE_ID
  if [[ $mode == catch-up && $size != 1 ]]; then
    say "ARRAY_SIZE $size is left out: catch-up has one worker"
    size=1
  fi
  [[ $size == 1 ]] || array=(--array-size "$size")
  run="$deploy_NAME-backfill-$(date -u +%Y%m%d%H%M%S)"
  submit ce jobrun submit --job "$deploy_NAME" --name "$run" ${array[@]+"${array[@]}"} \
    --cpu "$deploy_BACKFILL_CPU" --memory "$deploy_BACKFILL_MEMORY" \
    --maxexecutiontime "$deploy_BACKFILL_MAX_EXECUTION_TIME" --retrylimit "$(backfill_retries)"
  follow "$run" "$size"
}

# An answer may get lost, and a second run would push again what the first one pushes.
submit() {
  local words
  if attempt "submitting run $run" "$@"; then return; fi
  if said "$LOGIN|$PLUGIN|$RIGHTS"; then explain "$@"; fi
  words=("$output" "$complaint")
  if call ce jobrun get --name "$run"; then
    say "it was submitted, although the answer was:"
    excerpt "${words[*]}"
    return
  fi
  missing ||
    say "run $run may have begun all the same. Before you try again, look: $(show ce jobrun get --name "$run")" >&2
  output=${words[0]} complaint=${words[1]}
  explain "$@"
}

# Reads the state of a run into `done_count` and `failed_count`, `begun` and `readable`; the CLI's
# words are in `complaint` where it has none.
# shellcheck disable=SC2034 # await reads `begun` by its name
read_run() {
  local succeeded running status
  # One call that fails says nothing of the run, which goes on.
  call ce jobrun get --name "$1" --output json || output="{}"
  succeeded=$(json_number succeeded "$output")
  failed_count=$(json_number failed "$output")
  running=$(json_number running "$output")
  status=$(json_text status "$(tr ',{}' '\n' <<<"$output")")
  done_count=$((succeeded + failed_count))
  begun=$((done_count + running))
  readable=""
  if said '"(succeeded|failed|running|pending|requested|status)"'; then readable=yes; fi
  case $status in
    completed) done_count=$2 begun=$2 ;;
    failed) done_count=$2 begun=$2 failed_count=$((failed_count > 0 ? failed_count : 1)) ;;
  esac
}

# Waits until as many instances as $3 says have $2 (begun or done_count).
await() {
  local run=$1 what=$2 count=$3 size=$4 unreadable=0
  while :; do
    read_run "$run" "$size"
    [[ ${!what} -lt $count ]] || return 0
    if [[ -n $readable ]]; then unreadable=0; else unreadable=$((unreadable + 1)); fi
    if said "$LOGIN|$PLUGIN" || [[ $unreadable -ge $UNREADABLE_POLLS ]]; then
      excerpt "$complaint" >&2 || true
      die "can't tell how run $run is doing; it goes on. Look for yourself: ibmcloud ce jobrun get --name $run"
    fi
    # In the background, so that a signal is heard at once.
    sleep "$POLL_SECONDS" &
    wait $!
  done
}

# Shows the log while the run lasts, then its summary; the exit code is the run's.
follow() {
  local run=$1 size=$2 log="$tmp/log"
  if [[ -n $dry_run ]]; then
    show ce jobrun get --name "$run" --output json
    show ce jobrun logs --jobrun "$run" --follow
    show ce jobrun logs --jobrun "$run"
    return 0
  fi
  say "following it; if you interrupt this, the run goes on: $(self logs --run "$run")"
  await "$run" begun 1 "$size"
  # Beside the polling: a connection that breaks or hangs must end only the showing.
  ibmcloud ce jobrun logs --jobrun "$run" --follow </dev/null 2>&1 &
  following=$!
  await "$run" done_count "$size" "$size"
  end_of_log
  read_log "$run"
  printf '%s\n' "$output" | sed -n 's/.*\(summary {.*}\)[[:space:]]*$/\1/p' >"$log"
  tell_end "$run" "$size" "$log"
}

read_log() {
  local try
  for try in 1 2 3; do
    if call ce jobrun logs --jobrun "$1"; then return; fi
    [[ $try == 3 ]] || sleep "$POLL_SECONDS"
  done
  say "the log could not be read again, for the summary:"
  excerpt "$(told)"
  output=""
}

# The log that is followed may come to its end a little later than the run.
end_of_log() {
  local tenths=0
  while kill -0 "$following" 2>/dev/null && [[ $tenths -lt 100 ]]; do
    sleep 0.1
    tenths=$((tenths + 1))
  done
  stop_following
  wait "$following" 2>/dev/null || say "(the log could not be followed to its end: $(self logs --run "$run"))"
  following=""
}

# The CLI leaves the work to a process of its plug-in. (A process group of their own, to be ended as
# a whole, would not be let write to some terminals.)
stop_following() {
  pkill -P "$following" 2>/dev/null || true
  kill "$following" 2>/dev/null || true
}

tell_end() {
  local run=$1 size=$2 log=$3 missing
  missing=$((size - $(grep -c . "$log" || true)))
  [[ $failed_count == 0 ]] ||
    say "$failed_count of $size instances of run $run failed; what was not delivered is named in the log above"
  [[ $failed_count == 0 || $size == 1 ]] ||
    say "run those alone again: ibmcloud ce jobrun resubmit --jobrun $run --array-indexes INDICES --array-size-var-override $size"
  [[ $missing -le 0 ]] ||
    say "$missing of $size instances left no summary: they were stopped (memory, time), or their log is not there yet: ibmcloud ce jobrun logs --jobrun $run"
  clean "$(cat "$log")"
  [[ $failed_count == 0 ]]
}

# The name of the newest run of the job, which is the first name in its JSON; runs of the
# subscription are there for 10 minutes only.
latest_run() {
  json_objects <<<"$output" | while IFS= read -r item; do
    name=$(first_name "$item")
    time=$(json_text created_at "$item")
    [[ -n $time ]] || time=$(json_text creationTimestamp "$item")
    [[ -z $name ]] || say "$time $name"
  done | sort | tail -n 1 | cut -d' ' -f2
}

logs() {
  enter
  if [[ -z $run_name ]]; then
    exists ce jobrun list --job "$deploy_NAME" --output json || true
    run_name=$(latest_run)
    [[ -z $dry_run ]] || run_name="RUN"
    [[ -n $run_name ]] ||
      die "there is no run: those of the subscription are deleted after 10 minutes"
  fi
  change "log of run $run_name" ce jobrun logs --jobrun "$run_name"
  [[ -n $dry_run ]] || clean "$output"
}

report() { # NAME
  thing "$1"
  if ! exists "${look[@]}"; then say "  missing   $title"
  elif [[ -z $dry_run ]]; then say "  there     $title"; fi
}

compare() { # WHAT NAME PRINT
  if [[ -z $record ]] || settled "$2" "$3"; then return; fi
  case $(remembered "$2") in
    none) say "  others'   $1, if it is there: not made by \`up\`, which refuses it without --adopt" ;;
    "" | unsure) say "  unsure    $1: an \`up\` stopped half way; \`up\` goes on" ;;
    *) say "  changed   $1: differs from $ini; \`up\` brings it up to date" ;;
  esac
}

status() {
  assume=present
  copy_source
  target
  if ! exists ce project get --name "$deploy_PROJECT"; then
    say "  missing   project $deploy_PROJECT in $deploy_REGION: nothing is deployed"
    return 0
  fi
  change "project $deploy_PROJECT in $deploy_REGION" ce project select --name "$deploy_PROJECT"
  read_record
  [[ -n $dry_run || -n $record ]] ||
    say "  $(no_record): what is there of these names is not of \`up\`, which refuses it without --adopt"
  report JOB
  report SECRET
  report CONFIG
  report SUBSCRIPTION
  ! makes_key || report SERVICE_ID
  read_authorizations
  if [[ -z $(authorization_on "$(cos_guid)") ]]; then say "  missing   authorization \"Notifications Manager\""
  elif [[ -z $dry_run ]]; then say "  there     authorization \"Notifications Manager\""; fi
  older_authorizations | while read -r _ guid; do
    say "  changed   authorization on COS instance $guid: no longer wanted here; \`up\` removes it where no other subscription may need it"
  done
  ! makes_key || compare "policies of service ID $(service_id)" POLICIES "$(policies_print)"
  compare "secret $deploy_NAME-secret" SECRET "$(secret_print)"
  compare "configmap $deploy_NAME-config" CONFIG "$(config_print)"
  compare "job $deploy_NAME" JOB "$(job_print)"
  compare "subscription $deploy_NAME" SUBSCRIPTION "$(subscription_print)"
  change "recent runs:" ce jobrun list --job "$deploy_NAME"
  [[ -n $dry_run ]] || clean "$output"
}

# --- down ----------------------------------------------------------------------------------------

down() {
  assume=present
  target
  if ! exists ce project get --name "$deploy_PROJECT"; then
    say "nothing to remove: project $deploy_PROJECT does not exist in $deploy_REGION"
    say_service_id
    return 0
  fi
  change "selecting project $deploy_PROJECT" ce project select --name "$deploy_PROJECT"
  read_record
  if [[ -z $dry_run && -z $record ]]; then
    say "nothing ${record_there:+known }to remove: $(no_record)"
    say_service_id
    [[ -z $record_there ]] || exit 1 # it may be that what is there isn't understood
    return 0
  fi
  doomed=() left=()
  gather
  ask
  doing="down"
  remove
  doing=""
  say_left
}

# Without the record it can't be known whose it is, but a key that nobody minds should be known of.
say_service_id() {
  if exists iam service-id "$(service_id)"; then
    say "there is a service ID $(service_id), though. Where nothing uses its key: $(show iam service-id-delete "$(service_id)")"
  fi
}

no_record() {
  if [[ -z $record_there ]]; then
    say "no configmap $deploy_NAME-record says that \`up\` made anything in project $deploy_PROJECT"
  else say "configmap $deploy_NAME-record is there, but does not say that \`up\` made it"; fi
}

made() { [[ -n $dry_run || $(remembered "$1") == made ]]; }

# What is there to remove, in the order in which it goes.
gather() {
  look_in_project
  spare_others
  if made SERVICE_ID && { [[ -z $dry_run ]] || makes_key; }; then look_for_service_id; fi
  gather_authorizations
  gather_project
}

# Leaves what is of the same name, but was not made by `up`.
spare_others() {
  local each found=(${doomed[@]+"${doomed[@]}"})
  also=""
  [[ -z $dry_run ]] || return 0
  doomed=()
  for each in ${found[@]+"${found[@]}"}; do
    if ours "${each%%|*}"; then doomed+=("$each")
    elif project_goes; then also+=", ${each#*|} (not made by this script)"
    else left+=("${each#*|}: not made by this script"); fi
  done
}

project_goes() { [[ -n $with_project ]] && made PROJECT; }

look_in_project() {
  there SUBSCRIPTION
  there JOB ", with its runs and their logs"
  there SECRET
  there CONFIG
}

look_for_service_id() { there SERVICE_ID ", with its API keys and policies"; }

gather_authorizations() {
  local guid id ours="" needed="" own=""
  ! known SUBSCRIPTION ${doomed[@]+"${doomed[@]%%|*}"} || own=there
  read_authorizations
  [[ -z $(authorized)$with_project ]] || read_others "$own"
  # What goes with the project needs nothing any more.
  project_goes || needed=$others
  for guid in $(authorized); do
    id=$(authorization_on "$guid")
    if [[ -z $id ]]; then
      left+=("an authorization on COS instance $guid, if there still is one: none is listed by $(show iam authorization-policies)")
    elif [[ -n $needed ]]; then left+=("$(still_needed "$id" "$guid")")
    else doomed+=("authorization $id|authorization \"Notifications Manager\" on COS instance $guid"); fi
    [[ $guid != "$(cos_guid)" ]] || ours=yes
  done
  id=$(authorization_on "$(cos_guid)")
  [[ -z $id || -n $ours ]] ||
    left+=("authorization \"Notifications Manager\": it was there before. Where nothing needs it: $(show iam authorization-policy-delete "$id")")
}

there() { # NAME WHAT_GOES_WITH_IT
  thing "$1"
  if exists "${look[@]}"; then doomed+=("$1|$title${2-}"); fi
}

gather_project() {
  if project_goes; then
    # The record goes with it, not before it: a `down` that fails has to find it when it goes on.
    doomed+=("project|project $deploy_PROJECT, with ALL that is in it${others:+, subscription $(other_names) too}$also")
  else
    doomed+=("RECORD|configmap $deploy_NAME-record")
    if made PROJECT; then
      left+=("project $deploy_PROJECT, which \`up\` made: $(show ce project delete --name "$deploy_PROJECT")")
    else left+=("project $deploy_PROJECT: it was there before"); fi
  fi
  left+=("bucket $(env_value COS_BUCKET), and all that is in it$([[ $mode == simple ]] || printf %s ', the STATE object too')")
  [[ -z $deploy_SOURCE ]] ||
    left+=("the images that Code Engine built, in the account's container registry, and its build runs")
  ! has APIKEY || left+=("the API key of $ini")
}

ask() {
  local each answer=""
  [[ -z $dry_run ]] || return 0
  say "This removes:"
  for each in "${doomed[@]}"; do say "  ${each#*|}"; done
  [[ -z $yes ]] || return 0
  printf 'Remove all of it? Type yes: '
  read -r answer || true
  [[ $answer == yes ]] || die "nothing was removed"
}

remove() {
  local each id
  for each in "${doomed[@]}"; do
    id=${each%%|*} id=${id#* }
    case ${each%%|*} in
      SUBSCRIPTION) gone "${each#*|}" ce subscription cos delete --name "$deploy_NAME" --force ;;
      JOB) gone "${each#*|}" ce job delete --name "$deploy_NAME" --force ;;
      SECRET) gone "${each#*|}" ce secret delete --name "$deploy_NAME-secret" --force ;;
      CONFIG) gone "${each#*|}" ce configmap delete --name "$deploy_NAME-config" --force ;;
      SERVICE_ID) gone "${each#*|}" iam service-id-delete "$(service_id)" -f ;;
      authorization*) gone "${each#*|}" iam authorization-policy-delete "$id" -f ;;
      RECORD) gone "${each#*|}" ce configmap delete --name "$deploy_NAME-record" --force ;;
      project) gone "${each#*|}" ce project delete --name "$deploy_PROJECT" --force ;;
    esac
  done
}

# What is gone already needs no removing.
gone() {
  local what=$1
  shift
  if [[ -n $dry_run ]]; then
    show "$@"
    return
  fi
  say "removing $what"
  call "$@" || missing || explain "$@"
}

say_left() {
  local each
  [[ -z $dry_run ]] || return 0
  say "Left as it is:"
  for each in "${left[@]}"; do say "  $each"; done
}

# --- the command line ----------------------------------------------------------------------------

# Runs on every end: removes the files with keys, and says where a broken `up` stands.
at_end() {
  local code=$?
  [[ -z $following ]] || stop_following
  [[ -z $tmp ]] || rm -rf "$tmp"
  [[ $code != 0 && -n $doing ]] || return 0
  {
    if [[ $doing == up ]]; then
      say "up stopped half way. There now: $(join ${there_now[@]+"${there_now[@]}"})."
      [[ $project_was != made || -n ${record-} ]] ||
        say "Project $deploy_PROJECT, if it is there now, will count as one that was there before: \`down --project\` will leave it."
    else
      say "down stopped half way; what it had not come to is still there."
    fi
    say "Go on with: $again"
    say "It leaves alone what is done."
  } >&2
}

join() {
  local text="" each
  for each in "$@"; do text+=", $each"; done
  say "${text:-, nothing that is new}" | sed 's/^, //'
}

only_with() { # COMMAND OPTION VALUE
  [[ -z $3 || $action == "$1" ]] || refuse "$2 goes with $1, not with $action; see --help"
}

parse_arguments() {
  while [[ $# -gt 0 ]]; do
    case $1 in
      up | backfill | status | logs | down)
        [[ -z $action ]] || refuse "only one command at a time; see --help"
        action=$1
        ;;
      --ini | --run)
        [[ $# -gt 1 && -n $2 ]] || refuse "$1 needs a value; see --help"
        if [[ $1 == --ini ]]; then ini=$2; else run_name=$2; fi
        shift
        ;;
      --dry-run) dry_run=yes ;;
      --yes) yes=yes ;;
      --project) with_project=yes ;;
      --adopt) adopt=yes ;;
      --rebuild) rebuild=yes ;;
      -h | --help | help)
        usage
        exit 0
        ;;
      *) refuse "unknown: $1; see --help" ;;
    esac
    shift
  done
  [[ -n $action ]] || refuse "say what to do: up, backfill, status, logs or down; see --help"
  only_with up --adopt "$adopt"
  only_with up --rebuild "$rebuild"
  only_with down --yes "$yes"
  only_with down --project "$with_project"
  only_with logs --run "$run_name"
}

main() {
  parse_arguments "$@"
  again=$(quoted "$0" "$@")
  trap at_end EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  trap 'exit 141' PIPE
  tmp=$(mktemp -d)
  load_settings
  "$action"
}

main "$@"
