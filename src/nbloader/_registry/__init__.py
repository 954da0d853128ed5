"""The models that this process has loaded, the loads that wait, and the references to models."""
