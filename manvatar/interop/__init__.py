"""Our values as those of other libraries, and back; one module a library, which is imported only when it is used."""
