from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.python_share cimport PythonShare
from ringblk.workers.fs.request cimport FolderRequest

# Each has `method` called and answers the request: 0, a negative errno, or what the method raises.
cdef int answer_lookup(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_readlink(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_symlink(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_mknod(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_mkdir(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_create(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_remove(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_rename(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_link(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
