//go:build !linux && !darwin

package main

import "time"

// processTime returns 0: the CPU columns are empty here.
func processTime() time.Duration { return 0 }
