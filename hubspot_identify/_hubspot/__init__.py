"""One HTTP call to HubSpot. Private; import only :mod:`.client` from outside of this package."""
