"""What all ways of training share: what is asked (spec), made (prepare), done (loop), scored and reported."""
