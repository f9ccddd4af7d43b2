"""lab: experiments that show what the other rooms are for; a mistake, a claim, one script each."""
