"""From the bucket's objects to settled objects: reading ahead, decoding, the push loop."""
