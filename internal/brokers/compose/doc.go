// Package compose holds the test of the repository's docker-compose.yml. It is a
// module of its own so that nobody else needs what reads such files.
package compose
