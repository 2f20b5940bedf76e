# The same deployment as ../code_engine.py makes, for those who keep their VPC in Terraform.

locals {
  cos_guid   = split(":", var.cos_crn)[7]
  cloud_logs = var.destination == "cloud-logs"
  logs_guid  = local.cloud_logs ? regex("^https://([^.]+)", coalesce(var.cloud_logs_endpoint, "https://missing."))[0] : ""

  project_id = var.project.id == null ? ibm_code_engine_project.this[0].project_id : var.project.id

  follows      = var.mode == "follow"
  state_bucket = var.mode == "simple" ? null : coalesce(var.state_bucket, var.bucket)

  # The least that the job needs, by bucket.
  bucket_roles = merge(
    { (var.bucket) = ["Content Reader"] },
    local.state_bucket == null ? {} : { (local.state_bucket) = ["Content Reader", "Object Writer"] },
  )

  destination_settings = local.cloud_logs ? {
    CLOUD_LOGS_ENDPOINT = var.cloud_logs_endpoint
    } : {
    LOGDNA_ENDPOINT = var.logdna_endpoint
  }

  secrets = local.cloud_logs ? {} : {
    LOGDNA_INGESTION_KEY = var.logdna_ingestion_key
  }

  own_state = var.state_bucket == null ? {} : { FLOWLOG_STATE_BUCKET = var.state_bucket }

  settings = merge(var.settings, local.destination_settings, local.own_state, {
    COS_BUCKET = var.bucket
    # The direct endpoint is reached from inside IBM Cloud only, and is the near one there.
    COS_ENDPOINT    = "s3.direct.${var.region}.cloud-object-storage.appdomain.cloud"
    COS_CRN         = var.cos_crn
    LOG_DESTINATION = var.destination
    FLOWLOG_MODE    = var.mode
    FLOWLOG_PREFIX  = var.prefix

    IAM_PROFILE_NAME = ibm_iam_trusted_profile.this.name
  })
}

resource "ibm_code_engine_project" "this" {
  count             = var.project.id == null ? 1 : 0
  name              = var.name
  resource_group_id = var.project.resource_group_id
}

data "ibm_code_engine_project" "this" {
  project_id = local.project_id
}

# --- rights --------------------------------------------------------------------------------------

# What the job is to IAM: Code Engine gives it a token, so there is no key.
resource "ibm_iam_trusted_profile" "this" {
  name        = "${var.name}-${var.region}"
  description = "Reads flow logs for Code Engine job ${var.name}."
}

resource "ibm_iam_trusted_profile_link" "job" {
  profile_id = ibm_iam_trusted_profile.this.id
  cr_type    = "CE"
  name       = var.name

  link {
    crn            = data.ibm_code_engine_project.this.crn
    component_type = "job"
    component_name = ibm_code_engine_job.this.name
  }
}

resource "ibm_iam_trusted_profile_policy" "bucket" {
  for_each   = local.bucket_roles
  profile_id = ibm_iam_trusted_profile.this.id
  roles      = each.value

  resources {
    service              = "cloud-object-storage"
    resource_instance_id = local.cos_guid
    resource_type        = "bucket"
    resource             = each.key
  }
}

resource "ibm_iam_trusted_profile_policy" "logs" {
  count      = local.cloud_logs ? 1 : 0
  profile_id = ibm_iam_trusted_profile.this.id
  roles      = ["Sender"]

  resources {
    service              = "logs"
    resource_instance_id = local.logs_guid
  }
}

# The project may hear of new objects.
resource "ibm_iam_authorization_policy" "notifications" {
  count                       = local.follows ? 0 : 1
  source_service_name         = "codeengine"
  source_resource_instance_id = local.project_id
  target_service_name         = "cloud-object-storage"
  target_resource_instance_id = local.cos_guid
  roles                       = ["Notifications Manager"]
}

# --- the job -------------------------------------------------------------------------------------

resource "ibm_code_engine_secret" "this" {
  count      = local.cloud_logs ? 0 : 1
  project_id = local.project_id
  name       = "${var.name}-secret"
  format     = "generic"
  data       = local.secrets

  lifecycle {
    precondition {
      condition     = try(length(var.logdna_ingestion_key) > 0, false)
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
  scale_cpu_limit          = var.run.cpu
  scale_memory_limit       = var.run.memory
  scale_retry_limit        = var.run.retry_limit
  scale_max_execution_time = var.run.max_execution_time

  run_compute_resource_token_enabled = true

  dynamic "run_env_variables" {
    for_each = ibm_code_engine_secret.this[*].name
    content {
      type      = "secret_full_reference"
      reference = run_env_variables.value
    }
  }

  run_env_variables {
    type      = "config_map_full_reference"
    reference = ibm_code_engine_config_map.this.name
  }
}

# --- what starts the job -------------------------------------------------------------------------

# The provider has no resource for a timer or a subscription, so the CLI has to make it.
locals {
  kind = local.follows ? "cron" : "cos"
  when = local.follows ? "--schedule '${var.schedule}'" : join(" ", [
    "--bucket '${var.bucket}' --event-type write --prefix '${var.prefix}' --wait-timeout 300",
  ])
  subscribe = join(" ", [
    "ibmcloud ce subscription ${local.kind} create --name ${var.name}",
    "--destination-type job --destination ${ibm_code_engine_job.this.name} ${local.when}",
  ])
  enter = "ibmcloud target -r ${var.region} -g '${var.project.resource_group}' && ibmcloud ce project select --id ${local.project_id}"
}

resource "terraform_data" "subscription" {
  count = var.create_subscription ? 1 : 0

  # Anything of it that changes makes it anew.
  triggers_replace = [local.enter, local.subscribe]
  input = {
    enter  = local.enter
    remove = "ibmcloud ce subscription ${local.kind} delete --name ${var.name} --force"
  }

  provisioner "local-exec" {
    command = "${local.enter} && ${local.subscribe}"
  }

  provisioner "local-exec" {
    when    = destroy
    command = "${self.input.enter} && ${self.input.remove}"
  }

  depends_on = [
    ibm_iam_authorization_policy.notifications,
    ibm_iam_trusted_profile_link.job,
    ibm_iam_trusted_profile_policy.bucket,
  ]
}
