package main

import "github.com/stretchr/testify/assert"

func main() { assert.ObjectsAreEqual(1, 1) }
