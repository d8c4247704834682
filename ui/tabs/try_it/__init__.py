"""The tab where a task is tried: fields, prompt, answers side by side, their evaluation."""
