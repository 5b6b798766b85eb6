"""Requests over HTTP to machines that are not trusted: where they may go, how long and how many bytes they take."""
