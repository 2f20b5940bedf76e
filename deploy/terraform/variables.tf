# --- where the job runs --------------------------------------------------------------------------

variable "name" {
  description = "Name of the job; secret, configmap, timer and trusted profile are called after it."
  type        = string
  default     = "flowlog"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,23}[a-z0-9]$", var.name))
    error_message = "The name must be 2 to 25 lower-case letters, digits and hyphens."
  }
}

variable "project" {
  description = "Code Engine project in the bucket's region: id of one that exists, or resource_group_id of a new one (the provider's default group without it). resource_group is the name of the group that the ibmcloud CLI targets."
  type = object({
    id                = optional(string)
    resource_group_id = optional(string)
    resource_group    = optional(string, "Default")
  })
  default = {}
}

variable "run" {
  description = "What a run gets: cpu and memory (Code Engine documents the pairs), how often it is repeated after a failure (0 is not sent by the provider on create), and the seconds after which it is ended."
  type = object({
    cpu                = optional(string, "0.125")
    memory             = optional(string, "0.25G")
    retry_limit        = optional(number, 3)
    max_execution_time = optional(number, 7200)
  })
  default = {}

  validation {
    condition = alltrue([
      can(regex("^[0-9]+(\\.[0-9]+)?[MG]$", var.run.memory)),
      var.run.retry_limit >= 0 && var.run.retry_limit <= 5,
      var.run.max_execution_time >= 60 && var.run.max_execution_time <= 86400,
    ])
    error_message = "A run has a memory such as 0.25G, a retry_limit from 0 to 5, and a max_execution_time from 60 to 86400 seconds."
  }
}

variable "image" {
  description = "Image of the job, such as ghcr.io/OWNER/flowlog:1.0.0."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._/:@-]*$", var.image))
    error_message = "This is not the reference of an image."
  }
}

variable "image_secret" {
  description = "Name of the project's registry secret for a private image; null for a public one."
  type        = string
  default     = null
}

# --- where the flow logs are ---------------------------------------------------------------------

variable "cos_crn" {
  description = "CRN of the Cloud Object Storage instance that holds the bucket."
  type        = string

  validation {
    condition     = can(regex("^crn:v1:[^:]*:[^:]*:cloud-object-storage:[^:]*:[^:]*:[0-9a-fA-F-]{36}:", var.cos_crn))
    error_message = "This is not the CRN of a Cloud Object Storage instance."
  }
}

variable "bucket" {
  description = "The bucket with the flow logs; a regional one."
  type        = string
}

variable "region" {
  description = "Region of bucket, project and job, such as us-south."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]+$", var.region))
    error_message = "The region must be a name such as us-south."
  }
}

variable "prefix" {
  description = "Only keys that start so are flow logs."
  type        = string
  default     = "ibm_vpc_flowlogs_"
}

# --- where the lines go --------------------------------------------------------------------------

variable "destination" {
  description = "logdna (Mezmo) or cloud-logs (IBM Cloud Logs)."
  type        = string
  default     = "logdna"

  validation {
    condition     = contains(["logdna", "cloud-logs"], var.destination)
    error_message = "The destination must be logdna or cloud-logs."
  }
}

variable "logdna_endpoint" {
  description = "Base URL of the LogDNA ingestion API; for destination logdna."
  type        = string
  default     = "https://logs.mezmo.com"
}

variable "logdna_ingestion_key" {
  description = "Ingestion key; required for destination logdna. It is kept in the Terraform state."
  type        = string
  default     = null
  sensitive   = true
}

variable "cloud_logs_endpoint" {
  description = "https://INSTANCE_GUID.ingress.REGION.logs.cloud.ibm.com; required for destination cloud-logs."
  type        = string
  default     = null

  validation {
    condition     = var.cloud_logs_endpoint == null || can(regex("^https://[0-9a-fA-F-]{36}\\.ingress\\.", var.cloud_logs_endpoint))
    error_message = "This is not the ingress endpoint of an IBM Cloud Logs instance."
  }
}

# --- what is pushed ------------------------------------------------------------------------------

variable "mode" {
  description = "follow (a timer), or simple, remember or catch-up (the bucket's events)."
  type        = string
  default     = "follow"

  validation {
    condition     = contains(["follow", "simple", "remember", "catch-up"], var.mode)
    error_message = "The mode must be follow, simple, remember or catch-up."
  }
}

variable "schedule" {
  description = "When the timer of mode follow starts the job, in UTC."
  type        = string
  default     = "*/5 * * * *"
}

variable "state_bucket" {
  description = "Bucket of the STATE object, in the same COS instance; null means the flow logs' bucket."
  type        = string
  default     = null
}

variable "settings" {
  description = "More of the job's settings by name, such as { LOG = \"DEBUG\" }; no secrets."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for name in keys(var.settings) : contains([
        "CLOUD_LOGS_APPLICATION", "CLOUD_LOGS_SUBSYSTEM", "FLOWLOG_CONCURRENCY", "FLOWLOG_FIELDS",
        "FLOWLOG_RETRY_SECONDS", "FLOWLOG_SINCE", "FLOWLOG_WHERE", "IAM_ENDPOINT",
        "KEY_FIRST_LOGGED", "LOG",
      ], name)
    ])
    error_message = "This holds a name that is no setting of the job, or that has a variable of its own."
  }
}

variable "create_subscription" {
  description = "Make the timer or subscription by calling the ibmcloud CLI, which must be logged in; otherwise run output subscription_command once."
  type        = bool
  default     = false
}
