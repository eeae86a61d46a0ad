"""Broker, invokers and triggers as the Controller knows them: by their APIs, and as processes."""
