"""The harness: trains and scores models on TG80, and keeps their leaderboards."""
