"""Teachers and students: who is asked how often, what is learnt from the answers, how a student is built."""
