// An HTTP server on a port of its own that finishes what is in flight when it is told to end.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "pid=%d\n", os.Getpid()) })
	server := &http.Server{Addr: "127.0.0.1:3000"}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	ended := make(chan error)
	go func() {
		<-told
		ended <- server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		panic(err)
	}
	if err := <-ended; err != nil {
		panic(err)
	}
}
