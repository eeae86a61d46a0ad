"""Measuring programs that watch other programs: what is watched, who watches, and what that costs."""
