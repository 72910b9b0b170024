"""Messages to people and systems: mail, Slack, Teams, webhooks."""
