output "project_id" {
  description = "ID of the Code Engine project."
  value       = local.project_id
}

output "job" {
  description = "Name of the job."
  value       = ibm_code_engine_job.this.name
}

output "service_id" {
  description = "IAM ID of the service ID that reads the bucket."
  value       = ibm_iam_service_id.this.iam_id
}

output "subscription_command" {
  description = "Makes the subscription; to be run once, where create_subscription is false."
  value       = "${local.enter} && ${local.subscribe}"
}

output "backfill_command" {
  description = "Pushes all that is in the bucket, following the rule of retries: none but in catch-up."
  value = join(" ", [
    "${local.enter} && ibmcloud ce jobrun submit --job ${var.name} --cpu 1 --memory 4G",
    "--maxexecutiontime 86400 --retrylimit ${var.mode == "catch-up" ? 3 : 0}",
  ])
}
