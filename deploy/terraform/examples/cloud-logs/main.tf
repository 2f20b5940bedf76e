# Flow logs to IBM Cloud Logs, backlog included, in a project that exists already.

terraform {
  required_version = ">= 1.5"

  required_providers {
    ibm = {
      source  = "IBM-Cloud/ibm"
      version = ">= 1.88.0, < 3.0.0"
    }
  }
}

provider "ibm" {
  region = "eu-de"
}

module "flowlog" {
  source = "../.."

  image               = "ghcr.io/example/flowlog:1.0.0"
  project             = { id = "00000000-0000-0000-0000-000000000000" }
  region              = "eu-de"
  bucket              = "my-flow-logs"
  cos_crn             = "crn:v1:bluemix:public:cloud-object-storage:global:a/ACCOUNT:00000000-0000-0000-0000-000000000000::"
  destination         = "cloud-logs"
  cloud_logs_endpoint = "https://00000000-0000-0000-0000-000000000000.ingress.eu-de.logs.cloud.ibm.com"
  mode                = "follow"
  settings            = { CLOUD_LOGS_SUBSYSTEM = "vpc" }

  # Calls the ibmcloud CLI, which must be logged in where Terraform runs.
  create_subscription = true
}

output "backfill_command" {
  description = "Pushes the backlog in a large run."
  value       = module.flowlog.backfill_command
}
