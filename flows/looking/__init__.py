"""Looking at a store: a viewer in the browser, and a page that stands by itself."""
