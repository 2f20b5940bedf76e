"""The bucket: listing and reading objects, and the STATE object."""
