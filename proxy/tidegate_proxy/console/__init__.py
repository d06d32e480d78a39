"""The admin console: a database that is not there, named `pgbouncer`, in which SHOW tells what the proxy does."""
