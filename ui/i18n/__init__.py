"""Every text of the app, in Chinese and in English, a file a tab."""
