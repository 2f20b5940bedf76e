output "project_id" {
  description = "ID of the Code Engine project."
  value       = local.project_id
}

output "job" {
  description = "Name of the job."
  value       = ibm_code_engine_job.this.name
}

output "trusted_profile" {
  description = "Name of the trusted profile that the job uses."
  value       = ibm_iam_trusted_profile.this.name
}

output "subscription_command" {
  description = "Makes the timer or subscription; to be run once, where create_subscription is false."
  value       = "${local.enter} && ${local.subscribe}"
}

output "backfill_command" {
  description = "Pushes all that is in the bucket, with retries only where a run goes on from STATE."
  value = join(" ", [
    "${local.enter} && ibmcloud ce jobrun submit --job ${var.name} --cpu 1 --memory 4G",
    "--maxexecutiontime 86400 --retrylimit ${contains(["follow", "catch-up"], var.mode) ? 3 : 0}",
  ])
}
