"""Finding, loading, describing and scaffolding methods: strategies first, which users write."""
