"""What a comparison tells, as findings and in words of two languages."""
