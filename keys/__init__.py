"""Key pairs, certificates, announcements, grants, generations and the key store."""
