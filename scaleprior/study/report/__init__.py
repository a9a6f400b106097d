"""What a study says: tables, laws, sentences, pictures, and the page that holds them."""
