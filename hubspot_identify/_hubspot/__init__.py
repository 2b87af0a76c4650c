"""One call of HubSpot's token API. Private. Has no knowledge of Django's requests, users or cache."""
