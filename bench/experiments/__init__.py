"""What AKM is good for: experiments that can say no. Each file of an experiment begins with its
protocol, which was written before the first run and is printed with every result."""
