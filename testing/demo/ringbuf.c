/* ringbuf: a ring buffer of doubles. The C extension of the demo, with five bugs, each marked BUG. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#undef NDEBUG
#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    PyObject_HEAD
    double *items;
    Py_ssize_t capacity;
    Py_ssize_t start;
    Py_ssize_t length;
} Ring;

/* Where the item stands, or NULL when there is none. */
static double *slot(Ring *ring, Py_ssize_t index)
{
    if (index < 0 || index >= ring->length)
        return NULL;
    return &ring->items[(ring->start + index) % ring->capacity];
}

static void append(Ring *ring, double value)
{
    if (ring->length == ring->capacity)
        ring->start = (ring->start + 1) % ring->capacity;
    else
        ring->length++;
    *slot(ring, ring->length - 1) = value;
}

static PyObject *ring_push(Ring *ring, PyObject *argument)
{
    double value = PyFloat_AsDouble(argument);
    if (value == -1.0 && PyErr_Occurred())
        return NULL;
    append(ring, value);
    Py_RETURN_NONE;
}

static PyObject *ring_pop(Ring *ring, PyObject *Py_UNUSED(ignored))
{
    double value;
    assert(ring->length > 0 && "pop from an empty ring"); /* BUG: should be an IndexError. */
    value = *slot(ring, 0);
    ring->start = (ring->start + 1) % ring->capacity;
    ring->length--;
    return PyFloat_FromDouble(value);
}

static PyObject *ring_get(Ring *ring, PyObject *argument)
{
    Py_ssize_t index = PyLong_AsSsize_t(argument);
    if (index == -1 && PyErr_Occurred())
        return NULL;
    return PyFloat_FromDouble(*slot(ring, index)); /* BUG: slot() gives NULL past the end, and for a negative index. */
}

static PyObject *ring_resize(Ring *ring, PyObject *argument)
{
    Py_ssize_t capacity = PyLong_AsSsize_t(argument);
    Py_ssize_t kept, index;
    double *items;
    if (capacity < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "capacity must not be negative");
        return NULL;
    }
    if (capacity == 0)
        free(ring->items); /* BUG: and again below. */
    items = calloc((size_t)capacity + 1, sizeof(double));
    if (items == NULL)
        return PyErr_NoMemory();
    kept = ring->length < capacity ? ring->length : capacity;
    for (index = 0; index < kept; index++)
        items[index] = *slot(ring, ring->length - kept + index);
    free(ring->items);
    ring->items = items;
    ring->capacity = capacity;
    ring->start = 0;
    ring->length = kept;
    Py_RETURN_NONE;
}

/* Push every number of a text like "1.5,2,3". */
static PyObject *ring_parse(Ring *ring, PyObject *argument)
{
    const char *text = PyUnicode_AsUTF8(argument);
    if (text == NULL)
        return NULL;
    while (*text != '\0') {
        char *end;
        double value = strtod(text, &end);
        if (end == text)
            continue; /* BUG: nothing was read, so nothing is ever read: "1,,2" never ends. */
        append(ring, value);
        text = *end == ',' ? end + 1 : end;
    }
    Py_RETURN_NONE;
}

/* Move the items, oldest first, into a writable buffer of doubles, and fill it up. */
static PyObject *ring_drain_into(Ring *ring, PyObject *argument)
{
    Py_buffer target;
    Py_ssize_t index, room;
    if (PyObject_GetBuffer(argument, &target, PyBUF_CONTIG) < 0)
        return NULL;
    room = target.len / (Py_ssize_t)sizeof(double);
    for (index = 0; index < room; index++) /* BUG: as far as there is room, not as far as there are items. */
        memcpy((char *)target.buf + index * (Py_ssize_t)sizeof(double), slot(ring, index), sizeof(double));
    PyBuffer_Release(&target);
    ring->length = 0;
    Py_RETURN_NONE;
}

static Py_ssize_t ring_length(Ring *ring)
{
    return ring->length;
}

static int ring_init(Ring *ring, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"capacity", NULL};
    Py_ssize_t capacity;
    double *items;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n", keywords, &capacity))
        return -1;
    if (capacity < 1) {
        PyErr_SetString(PyExc_ValueError, "capacity must be positive");
        return -1;
    }
    items = calloc((size_t)capacity, sizeof(double));
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    free(ring->items);
    ring->items = items;
    ring->capacity = capacity;
    ring->start = 0;
    ring->length = 0;
    return 0;
}

static void ring_dealloc(Ring *ring)
{
    free(ring->items);
    Py_TYPE(ring)->tp_free((PyObject *)ring);
}

static PyObject *ring_repr(Ring *ring)
{
    return PyUnicode_FromFormat("<Ring %zd of %zd>", ring->length, ring->capacity);
}

static PyObject *ring_get_capacity(Ring *ring, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(ring->capacity);
}

static PyMethodDef ring_methods[] = {
    {"push", (PyCFunction)ring_push, METH_O, "Append a number; a full ring loses its oldest."},
    {"pop", (PyCFunction)ring_pop, METH_NOARGS, "Take the oldest number out."},
    {"get", (PyCFunction)ring_get, METH_O, "The number at an index, the oldest has 0."},
    {"resize", (PyCFunction)ring_resize, METH_O, "Change the capacity and keep the newest."},
    {"parse", (PyCFunction)ring_parse, METH_O, "Push every number of a text, separated by commas."},
    {"drain_into", (PyCFunction)ring_drain_into, METH_O, "Move all numbers into a buffer of doubles."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef ring_properties[] = {
    {"capacity", (getter)ring_get_capacity, NULL, "How many numbers there is room for.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PySequenceMethods ring_sequence = {
    .sq_length = (lenfunc)ring_length,
};

static PyTypeObject ring_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "ringbuf.Ring",
    .tp_doc = "A ring buffer of doubles.",
    .tp_basicsize = sizeof(Ring),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)ring_init,
    .tp_dealloc = (destructor)ring_dealloc,
    .tp_repr = (reprfunc)ring_repr,
    .tp_methods = ring_methods,
    .tp_getset = ring_properties,
    .tp_as_sequence = &ring_sequence,
};

static struct PyModuleDef ringbuf_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ringbuf",
    .m_doc = "A ring buffer of doubles.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit_ringbuf(void)
{
    PyObject *module;
    if (PyType_Ready(&ring_type) < 0)
        return NULL;
    module = PyModule_Create(&ringbuf_module);
    if (module == NULL)
        return NULL;
    Py_INCREF(&ring_type);
    if (PyModule_AddObject(module, "Ring", (PyObject *)&ring_type) < 0
        || PyModule_AddStringConstant(module, "__version__", "0.3.1") < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
