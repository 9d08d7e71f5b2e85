"""What any kind of request is: a parser, an executor, a ring of requests under way."""
