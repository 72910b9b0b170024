"""The kit: knows Prefect and pydantic, knows no tool."""
