# The same deployment as ../code-engine.sh makes, for those who keep their VPC in Terraform.

locals {
  cos_guid   = split(":", var.cos_crn)[7]
  cloud_logs = var.destination == "cloud-logs"
  logs_guid  = local.cloud_logs ? regex("^https://([^.]+)", coalesce(var.cloud_logs_endpoint, "https://missing."))[0] : ""

  project_id = var.project_id == null ? ibm_code_engine_project.this[0].project_id : var.project_id

  # Listing needs more than Object Reader, and STATE needs Writer.
  cos_role = var.mode == "simple" ? "Content Reader" : "Writer"

  destination_settings = local.cloud_logs ? {
    CLOUD_LOGS_ENDPOINT = var.cloud_logs_endpoint
    } : {
    LOGDNA_ENDPOINT = var.logdna_endpoint
  }

  secrets = local.cloud_logs ? {
    APIKEY = ibm_iam_service_api_key.this.apikey
    } : {
    APIKEY               = ibm_iam_service_api_key.this.apikey
    LOGDNA_INGESTION_KEY = var.logdna_ingestion_key
  }

  settings = merge(var.settings, local.destination_settings, {
    COS_BUCKET = var.bucket
    # The direct endpoint is reached from inside IBM Cloud only, and is the near one there.
    COS_ENDPOINT    = "s3.direct.${var.region}.cloud-object-storage.appdomain.cloud"
    COS_CRN         = var.cos_crn
    LOG_DESTINATION = var.destination
    FLOWLOG_MODE    = var.mode
    FLOWLOG_PREFIX  = var.prefix
  })
}

resource "ibm_code_engine_project" "this" {
  count             = var.project_id == null ? 1 : 0
  name              = var.name
  resource_group_id = var.resource_group_id
}

# --- rights --------------------------------------------------------------------------------------

# The project may hear of new objects.
resource "ibm_iam_authorization_policy" "notifications" {
  source_service_name         = "codeengine"
  source_resource_instance_id = local.project_id
  target_service_name         = "cloud-object-storage"
  target_resource_instance_id = local.cos_guid
  roles                       = ["Notifications Manager"]
}

resource "ibm_iam_service_id" "this" {
  name        = "${var.name}-${var.region}"
  description = "Reads flow logs for Code Engine job ${var.name}."
}

resource "ibm_iam_service_policy" "bucket" {
  iam_id = ibm_iam_service_id.this.iam_id
  roles  = [local.cos_role]

  resources {
    service              = "cloud-object-storage"
    resource_instance_id = local.cos_guid
    resource_type        = "bucket"
    resource             = var.bucket
  }
}

resource "ibm_iam_service_policy" "logs" {
  count  = local.cloud_logs ? 1 : 0
  iam_id = ibm_iam_service_id.this.iam_id
  roles  = ["Sender"]

  resources {
    service              = "logs"
    resource_instance_id = local.logs_guid
  }
}

resource "ibm_iam_service_api_key" "this" {
  name           = "${var.name}-key"
  description    = "Used by Code Engine job ${var.name}."
  iam_service_id = ibm_iam_service_id.this.iam_id
}

# --- the job -------------------------------------------------------------------------------------

resource "ibm_code_engine_secret" "this" {
  project_id = local.project_id
  name       = "${var.name}-secret"
  format     = "generic"
  data       = local.secrets

  lifecycle {
    precondition {
      condition     = local.cloud_logs || try(length(var.logdna_ingestion_key) > 0, false)
      error_message = "Set logdna_ingestion_key: destination logdna needs it."
    }
  }
}

resource "ibm_code_engine_config_map" "this" {
  project_id = local.project_id
  name       = "${var.name}-config"
  data       = local.settings

  lifecycle {
    precondition {
      condition     = !local.cloud_logs || var.cloud_logs_endpoint != null
      error_message = "Set cloud_logs_endpoint: destination cloud-logs needs it."
    }
  }
}

resource "ibm_code_engine_job" "this" {
  project_id               = local.project_id
  name                     = var.name
  image_reference          = var.image
  image_secret             = var.image_secret
  scale_cpu_limit          = var.cpu
  scale_memory_limit       = var.memory
  scale_retry_limit        = var.retry_limit
  scale_max_execution_time = var.max_execution_time

  run_env_variables {
    type      = "secret_full_reference"
    reference = ibm_code_engine_secret.this.name
  }

  run_env_variables {
    type      = "config_map_full_reference"
    reference = ibm_code_engine_config_map.this.name
  }
}

# --- the subscription ----------------------------------------------------------------------------

# The provider has no resource for subscriptions that we know of, so the CLI has to make it.
locals {
  subscribe = join(" ", [
    "ibmcloud ce subscription cos create --name ${var.name}",
    "--destination-type job --destination ${ibm_code_engine_job.this.name}",
    "--bucket '${var.bucket}' --event-type write --prefix '${var.prefix}'",
  ])
  enter = "ibmcloud target -r ${var.region} && ibmcloud ce project select --id ${local.project_id}"
}

resource "terraform_data" "subscription" {
  count = var.create_subscription ? 1 : 0

  # Anything of it that changes makes it anew. Objects written in between raise no run.
  triggers_replace = [local.enter, local.subscribe]
  input = {
    enter  = local.enter
    remove = "ibmcloud ce subscription cos delete --name ${var.name} --force"
  }

  provisioner "local-exec" {
    command = "${local.enter} && ${local.subscribe}"
  }

  provisioner "local-exec" {
    when    = destroy
    command = "${self.input.enter} && ${self.input.remove}"
  }

  depends_on = [ibm_iam_authorization_policy.notifications]
}
