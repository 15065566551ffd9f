"""The controller: signs certificates and grants, for a directory of files so far."""
