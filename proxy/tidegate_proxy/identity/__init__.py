"""Who a client is: what it says at its login, checked."""
