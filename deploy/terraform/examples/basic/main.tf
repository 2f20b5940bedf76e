# Flow logs of a bucket in us-south to Mezmo:  terraform apply -var logdna_ingestion_key=...
# (better in the environment, where nobody lists it: TF_VAR_logdna_ingestion_key)

terraform {
  required_version = ">= 1.5"

  required_providers {
    ibm = {
      source  = "IBM-Cloud/ibm"
      version = ">= 1.88.0, < 3.0.0"
    }
  }
}

variable "logdna_ingestion_key" {
  description = "Ingestion key of the log service."
  type        = string
  sensitive   = true
}

provider "ibm" {
  region = "us-south"
}

module "flowlog" {
  source = "../.."

  image                = "ghcr.io/example/flowlog:1.0.0"
  region               = "us-south"
  bucket               = "my-flow-logs"
  cos_crn              = "crn:v1:bluemix:public:cloud-object-storage:global:a/ACCOUNT:00000000-0000-0000-0000-000000000000::"
  logdna_ingestion_key = var.logdna_ingestion_key
}

output "subscription_command" {
  description = "To be run once."
  value       = module.flowlog.subscription_command
}
