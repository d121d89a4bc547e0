"""The five published systems, each behind the contract of `backend.systems.base`."""
