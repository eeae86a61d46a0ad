"""The manual's reference, made from the code: pages for the site, and man pages.

What is made is only ever built, never stored, so it cannot be out of date.
"""
