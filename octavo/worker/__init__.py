"""The device side: applies what the scheduler decided, and decides nothing."""
