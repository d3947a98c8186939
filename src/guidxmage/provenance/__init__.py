"""What a result was made from: versions, source code and digests."""
