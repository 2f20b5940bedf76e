"""What a person at a desk has beside the job: the tester's pages, its ini file, named keys."""
