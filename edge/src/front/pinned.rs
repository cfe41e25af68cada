//! What hyper needs to give a connection back.

/// A service of hyper's whose futures are boxed, as taking a connection back by hand needs them to be movable.
pub struct Pinned<T>(pub T);

impl<T, R, F> hyper::service::Service<R> for Pinned<T>
where
    T: hyper::service::Service<R, Future = F>,
    F: Future<Output = Result<T::Response, T::Error>>,
{
    type Response = T::Response;
    type Error = T::Error;
    type Future = std::pin::Pin<Box<F>>;
    fn call(&self, request: R) -> Self::Future {
        Box::pin(self.0.call(request))
    }
}
