package api

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/uvbond/uvbond/server/images"
	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
)

// Image is the record of a stored disk.
type Image struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Size      int64  `json:"size" doc:"Bytes when complete."`
	SHA256    string `json:"sha256" doc:"Of the whole file as announced, hex."`
	Offset    int64  `json:"offset" doc:"Bytes on stable storage; the upload goes on here."`
	State     string `json:"state" enum:"uploading,verifying,ready,failed"`
	Reason    string `json:"reason,omitempty" doc:"Why it failed."`
	VM        string `json:"vm,omitempty" doc:"The VM that uses it."`
	Base      string `json:"base,omitempty" doc:"The base image that the hypervisor makes it from; nothing is uploaded to it."`
	ChunkSize int64  `json:"chunk_size" doc:"Largest body of one PUT, bytes."`
}

// NewImage announces an upload.
type NewImage struct {
	Name   string `json:"name" minLength:"1" maxLength:"512" doc:"For people; need not be unique."`
	Size   int64  `json:"size" minimum:"1"`
	SHA256 string `json:"sha256" pattern:"^[0-9a-fA-F]{64}$" doc:"Of the whole file, hex."`
}

// ImageList is every image of a tenant.
type ImageList struct {
	Images []Image `json:"images" nullable:"false"`
}

func imageOf(i *store.Image) Image {
	return Image{i.ID, i.Name, i.Size, hex.EncodeToString(i.SHA256[:]), i.Offset, i.State, i.Reason, i.VM, i.Base, images.ChunkSize}
}

type imagePath struct {
	ID string `path:"id" maxLength:"64"`
}

// chunkInput is a raw chunk; huma leaves the body alone and Resolve keeps it.
type chunkInput struct {
	ID     string `path:"id" maxLength:"64"` // not embedded: huma does not reach into unexported types
	Offset int64  `query:"offset" required:"true" minimum:"0" doc:"Must be the image's offset."`
	Digest string `header:"Content-Digest" maxLength:"512" doc:"RFC 9530 digest of this chunk; sha-256 is checked."`
	w      http.ResponseWriter
	r      *http.Request
}

// Resolve keeps the request, whose body is read by the handler.
func (c *chunkInput) Resolve(ctx huma.Context) []error {
	c.r, c.w = humago.Unwrap(ctx)
	return nil
}

type noContent struct{}

func (s *Server) imageRoutes() {
	create := s.operation(http.MethodPost, "/v1/images", "create-image", "Start an upload, or find the one under way", 16<<10, 403, 413, 507)
	huma.Register(s.api, create, func(ctx context.Context, in *body[NewImage]) (*body[Image], error) {
		var sum [32]byte
		if _, err := hex.Decode(sum[:], []byte(in.Body.SHA256)); err != nil {
			return nil, fail(ctx, problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "sha256: 64 hex digits are needed"))
		}
		img, err := s.opts.Images.Create(ctx, tenantOf(ctx), in.Body.Name, in.Body.Size, sum)
		return imageAnswer(ctx, img, err)
	})
	huma.Register(s.api, s.operation(http.MethodGet, "/v1/images", "list-images", "All images", 0),
		func(ctx context.Context, _ *struct{}) (*body[ImageList], error) {
			list, err := s.opts.Store.Images(ctx, tenantOf(ctx).ID)
			if err != nil {
				return nil, fail(ctx, err)
			}
			out := ImageList{Images: make([]Image, len(list))}
			for i := range list {
				out.Images[i] = imageOf(&list[i])
			}
			return &body[ImageList]{out}, nil
		})
	huma.Register(s.api, s.operation(http.MethodGet, "/v1/images/{id}", "get-image", "One image", 0, 404),
		func(ctx context.Context, in *imagePath) (*body[Image], error) {
			img, err := s.opts.Images.Get(ctx, tenantOf(ctx), in.ID)
			return imageAnswer(ctx, img, err)
		})
	huma.Register(s.api, s.operation(http.MethodDelete, "/v1/images/{id}", "delete-image", "Remove an image that no VM uses", 0, 404, 409),
		func(ctx context.Context, in *imagePath) (*noContent, error) {
			if err := s.opts.Images.Delete(ctx, tenantOf(ctx), in.ID); err != nil {
				return nil, fail(ctx, err)
			}
			return nil, nil
		})
	put := s.operation(http.MethodPut, "/v1/images/{id}/data", "write-image", "Store the next chunk", images.ChunkSize, 400, 404, 408, 409, 413, 507)
	put.Description = "The body is raw data of at most 8 MiB. An answer means that the data is on stable storage. " +
		"A wrong offset is answered with 409 and the right one in Upload-Offset."
	put.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
	}}
	huma.Register(s.api, put, s.putChunk)
}

func imageAnswer(ctx context.Context, img *store.Image, err error) (*body[Image], error) {
	if err != nil {
		return nil, fail(ctx, err)
	}
	return &body[Image]{imageOf(img)}, nil
}

func (s *Server) putChunk(ctx context.Context, in *chunkInput) (*body[Image], error) {
	digest, err := parseDigest(in.Digest)
	if err != nil {
		return nil, fail(ctx, problem.New(http.StatusBadRequest, problem.ClassInvalid, "%s", err.Error()))
	}
	if in.r.ContentLength > images.ChunkSize {
		return nil, fail(ctx, problem.New(http.StatusRequestEntityTooLarge, problem.ClassTooLarge,
			"a chunk has at most %d bytes, this one has %d", int64(images.ChunkSize), in.r.ContentLength))
	}
	if !s.uploads.tryAcquire() {
		s.metrics.turnedAway.WithLabelValues("uploads").Inc()
		return nil, fail(ctx, problem.New(http.StatusServiceUnavailable, problem.ClassTooMany, "too many uploads are running; try again").With("Retry-After", "2"))
	}
	defer s.uploads.release()
	img, err := s.opts.Images.Write(ctx, tenantOf(ctx), in.ID, in.Offset, digest, s.chunkBody(in))
	if err == nil {
		s.metrics.uploaded.Add(float64(img.Offset - in.Offset))
	}
	return imageAnswer(ctx, img, err)
}

// chunkBody reads at the client's pace as long as something comes, within the
// chunk's size.
func (s *Server) chunkBody(in *chunkInput) io.Reader {
	if b, ok := in.r.Body.(*timedBody); ok {
		b.idle = s.opts.Config.Timeouts.Chunk.D()
	}
	return http.MaxBytesReader(in.w, in.r.Body, images.ChunkSize)
}
