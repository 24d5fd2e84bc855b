"""Training of locators: networks that find what a text says as boxes."""
