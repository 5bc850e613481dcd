"""Results for people: tables, figures, the page, a case's folder, a reconstruction's files."""
