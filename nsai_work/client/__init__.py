"""What a submitting process uses: submit, validate, job files, the handle, promotion."""
