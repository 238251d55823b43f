"""The leaderboard as a static page."""
