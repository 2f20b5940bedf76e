"""How the job gets into an IBM Cloud account."""
